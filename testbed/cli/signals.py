"""Ctrl-C and its kin. The first asks the command to stop; the second ends the process, whatever it is doing.

The first is raised where the command is (KeyboardInterrupt, or SystemExit for a signal that is not typed), so that it
can keep what is finished and tidy up. Nothing is ever raised into that tidying up: a thread that Python's own handlers
wake hears the second one and ends the process, also while the command waits in native code or for another thread.

Where an exception could get lost, in the middle of an import or where Python can raise nothing, the first ends the
process: folders are made to bear that at any moment.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from types import FrameType
from typing import NoReturn

from testbed.core.folder.files import remove_unfinished

_STOPPING = tuple(
    signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # SIGQUIT (Ctrl-\) stays the system's
_SHOW_CURSOR = b"\x1b[?25h"  # a bar hides it
_INTERRUPTED = "interrupted"

_first: int | None = None
_ending = threading.RLock()  # a third signal may interrupt what the second began, in the same thread


def listen() -> None:
    """Begins to listen: from now on, stops this process as the module says. Called once, by its main thread.

    A signal that whoever started us had ignored (nohup, a shell's background job) stays ignored.
    """
    heard, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in _STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_deaf)  # a child's signals are not ours, though it has our pipe
    threading.Thread(target=_count, args=(heard,), name="signals", daemon=True).start()


def stopped_by() -> int | None:
    """The signal that asked this process to stop, if one did."""
    return _first


def leave_to_system() -> None:
    """Once the command has ended: a signal ends the rest of the process without a word."""
    for number in _STOPPING:
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_DFL)


def lost(kind: type[BaseException]) -> None:
    """Says that an exception was raised where none can be: if it was ours, the process ends now."""
    if _first is not None and issubclass(kind, (KeyboardInterrupt, SystemExit)):
        _end_now(_first, _INTERRUPTED if _first == signal.SIGINT else "")


def _stop(number: int, frame: FrameType | None) -> None:
    global _first
    if _first is not None:
        _end_now(number)
    _first = number
    if _importing(frame):
        _end_now(number, _INTERRUPTED if number == signal.SIGINT else "")
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _count(heard: int) -> None:
    """A thread's life: reads the numbers of the signals that arrive, however busy the main thread is."""
    arrived: list[int] = []
    while numbers := os.read(heard, 64):
        arrived += [number for number in numbers if number in _STOPPING]
        if len(arrived) > 1:
            _end_now(arrived[-1])


def _importing(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _end_now(number: int, reason: str = "stopped at once") -> NoReturn:
    """Ends the process without waiting for anything. Workers end with it; of files, only whole ones are left."""
    if not _ending.acquire(blocking=False):  # both threads may hear the second signal: one says so
        while True:
            time.sleep(1)
    remove_unfinished()
    text = f"error: {reason}; run the same command again to start over or go on\n".encode() if reason else b""
    if os.isatty(2):
        text = _SHOW_CURSOR + b"\n" + text
    if select.select([], [2], [], 0)[1]:  # nor for a reader
        os.write(2, text)
    os._exit(128 + number)


def _deaf() -> None:
    signal.set_wakeup_fd(-1)
    for number in _STOPPING:
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
