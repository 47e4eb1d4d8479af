"""The last resort: an exception that nobody foresaw becomes one line, and its traceback a file."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from testbed.cli.signals import lost
from testbed.core.words.text import visible

DEBUG = "TESTBED_DEBUG"  # in the environment: show tracebacks, warnings and logs of libraries instead
_LIBRARIES = ("testbed", "numpy", "onnx", "onnxruntime", "openvino", "tensorrt", "torch", "pyarrow")
_MANIFEST = "manifest.json"  # what makes a folder a run folder
_LONGEST = 300  # characters of a message; the file has all of it

_run: Path | None = None


def debugging() -> bool:
    return os.environ.get(DEBUG, "") not in ("", "0")


def concerns(run: Path) -> None:
    """Says in which run folder, if it is one, the details of a bug belong."""
    global _run
    _run = run


def bug_line(error: BaseException) -> str:
    """What to tell of ``error``, in one line. Writes its traceback to a file, and says to which."""
    message = " ".join((str(error).strip().splitlines() or [""])[-1].split())
    summary = visible(f"{type(error).__name__}: {message[:_LONGEST]}" if message else type(error).__name__)
    file = _written(_details(error))
    where = f"details in {file}" if file else f"no folder takes the details: set {DEBUG}=1 to see them"
    if isinstance(error, MemoryError):
        return f"out of memory; if asking for less does not help, this is a bug, please report it: {summary}; {where}"
    return f"this is a bug, please report it: {summary}; {where}"


def watch_threads() -> None:
    """Tells what a thread raises, and what Python cannot raise anywhere, in the same way or not at all."""

    def print_failure(failed: threading.ExceptHookArgs) -> None:
        if failed.exc_value is not None and not isinstance(failed.exc_value, SystemExit):
            print(f"error: {bug_line(failed.exc_value)}", file=sys.stderr)

    threading.excepthook = print_failure
    sys.unraisablehook = lambda failed: lost(failed.exc_type)


def _details(error: BaseException) -> str:
    import platform
    import shlex
    import traceback

    versions = [f"{name} {version}" for name in _LIBRARIES if (version := _version(name))]
    trace = "".join(traceback.format_exception(error))
    head = [f"testbed {shlex.join(sys.argv[1:])}", f"Python {sys.version}", platform.platform(), ", ".join(versions)]
    return "\n".join([*map(visible, head), "", trace])


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _folders() -> Iterator[Path]:
    import tempfile

    if _run is not None and (_run / _MANIFEST).is_file():
        yield _run
    state = os.environ.get("XDG_STATE_HOME", "")
    yield Path(state if os.path.isabs(state) else os.path.expanduser("~/.local/state")) / "testbed"
    with suppress(OSError):
        yield Path(tempfile.gettempdir())


def _written(details: str) -> Path | None:
    """The file that took them, in the first folder that can."""
    name = f"bug-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in _folders():
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(details.encode(errors="backslashreplace"))
            return folder / name
    return None
