"""Standard output kept for results where a native library writes to it."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_STDOUT, _STDERR = 1, 2


@contextmanager
def native_stdout_to_stderr() -> Iterator[None]:
    """Sends what native code writes to file descriptor 1 to standard error, for the whole process while it lasts.

    A solver's stray line would else lie in front of the JSON that a command prints.
    """
    _flush()
    try:
        kept = os.dup(_STDOUT)
    except OSError:  # closed: there is nothing to keep clean
        yield
        return
    try:
        os.dup2(_STDERR, _STDOUT)
        yield
    finally:
        _flush()
        os.dup2(kept, _STDOUT)
        os.close(kept)


def _flush() -> None:
    """Python's buffer and C's: each would else be written after the descriptor has changed."""
    if sys.stdout is not None:
        sys.stdout.flush()
    if os.name == "posix":
        ctypes.CDLL(None).fflush(None)
