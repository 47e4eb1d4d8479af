"""Disks that take no more, and operations that the system refuses."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes: the system itself writes a part and refuses the rest."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def failing(number: int) -> Callable[..., Any]:
    """A function that fails as the system does with this error number, whatever it is given."""

    def call(*_args: Any, **_kwargs: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return call
