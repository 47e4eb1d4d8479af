"""A worker in a process of its own: whatever a fault does to an engine, this process lives on and is told.

The child is a new interpreter: it inherits no engine, no lock and no open file. It dies with this process.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from typing import Any, Protocol, TypeVar

from testbed.core.errors import TestbedError
from testbed.core.process.child import BUG, ERROR, MEMORY, OUT_OF_MEMORY

_SLICE_S = 1.0
_TAIL_BYTES = 4096
# Sent from outside, by the system out of memory, a batch system out of time, or a person: no engine does so by itself.
_SENT = {"SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGXCPU", "SIGPWR", "SIGIO"}


class WorkerFailed(Exception):
    """The worker is gone, or must be: it can be called no more. One line."""


class Crashed(WorkerFailed):
    """It ended by a signal of its own making, or with an exit code."""


class Hung(WorkerFailed):
    """It did not answer in time and was killed."""


class Lost(WorkerFailed):
    """It was taken away. Says nothing about the work it was doing."""


class OutOfMemory(Lost):
    """It asked for more memory than there was."""


class Stopped(WorkerFailed):
    """It was killed by `Isolated.kill`."""


class WorkerBug(RuntimeError):
    """Something that neither an engine nor a user can cause went wrong in the child; has its traceback."""


Returned = TypeVar("Returned", covariant=True)


class IsolatedCall(Protocol[Returned]):
    """What is done there with the object that was made. ``name``: for messages."""

    @property
    def name(self) -> str: ...

    def __call__(self, handler: Any, /) -> Returned: ...


class Isolated:
    """One child process with the object that ``factory(*arguments)`` makes there. Used by one thread, killed by any."""

    def __init__(
        self, factory: Callable[..., Any], arguments: tuple[Any, ...] = (), *, idle_s: float | None = None
    ) -> None:
        """Starts the process, and does not wait for it: see `open`. idle_s: it ends by itself after so long unused."""
        self._opening = (factory, arguments)
        self._killed = self._begun = False
        self._pipe, theirs = Pipe()
        paths = [os.path.abspath(path) for path in sys.path]
        program = (
            f"import sys; sys.path[:] = {paths!r}; from testbed.core.process.child import main; main(%d, {idle_s})"
        )
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program % theirs.fileno()],
                stdin=subprocess.PIPE,  # closed by our death
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
            )
        self._tail = _OutputTail(self._process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def begin(self) -> None:
        """Has it make the object from now on; `open` waits for that."""
        self._begun = True
        with suppress(OSError):  # a child that is gone: `open` tells why
            self._pipe.send_bytes(pickle.dumps(self._opening))

    def open(self, timeout_s: float) -> None:
        """Makes the object. Raises as `call` does."""
        doing = "while it was opened"
        if self._begun:
            self._answer(timeout_s, doing)
        else:
            self._ask(self._opening, timeout_s, doing)

    def call(self, call: IsolatedCall[Returned], timeout_s: float) -> Returned:
        """What ``call``, which travels by pickle, returns of the object.

        Raises Crashed, Hung, Lost, OutOfMemory or Stopped when the child is gone or unusable; the TestbedError that it
        raised, as itself; WorkerBug for any other exception.
        """
        answer: Returned = self._ask((call, ()), timeout_s, f"in {call.name}")
        return answer

    def _ask(self, request: tuple[Any, tuple[Any, ...]], timeout_s: float, doing: str) -> Any:
        self._tail.forget()
        try:
            self._pipe.send_bytes(pickle.dumps(request))
        except OSError:  # a child that died has closed its end
            raise self._death(doing) from None
        return self._answer(timeout_s, doing)

    def _answer(self, timeout_s: float, doing: str) -> Any:
        try:
            answered = self._answers_within(timeout_s)
            kind: str
            value: Any
            kind, value = pickle.loads(self._pipe.recv_bytes()) if answered else ("", None)
        except (EOFError, OSError):
            raise self._death(doing) from None
        if not answered:
            self._end()
            raise Stopped("stopped") if self._killed else Hung(f"no answer after {timeout_s:.3g} s {doing}")
        if kind == MEMORY:
            raise OutOfMemory(f"out of memory {doing}: {_one_line(value)}")
        if kind == ERROR:
            raise _rebuilt(*value)
        if kind == BUG:
            raise WorkerBug(f"a worker failed {doing}\n{value}")
        return value

    def _answers_within(self, timeout_s: float) -> bool:
        """Waits in slices, so that time in which this process was suspended does not count."""
        left = timeout_s
        while left > 0:
            if self._pipe.poll(min(left, _SLICE_S)):
                return True
            if not self.alive:  # yet something that it started holds the pipe open
                raise EOFError
            left -= _SLICE_S
        return False

    def _death(self, doing: str) -> WorkerFailed:
        self._end(wait_s=10.0)
        if self._killed:
            return Stopped("stopped")
        code = self._process.returncode
        name = _signal_name(-code) if code < 0 else None
        tail = self._tail.text()
        how = f"ended by {name} {doing}" if name else f"ended with exit code {code} {doing}"
        reason = f"{how}: {_one_line(tail)}" if tail.strip() else how
        if OUT_OF_MEMORY.search(tail):
            return OutOfMemory(reason)
        return Lost(reason) if code == 0 or name in _SENT else Crashed(reason)

    def kill(self) -> None:
        """Kills the process, from any thread; the thread that waits for an answer gets Stopped."""
        self._killed = True
        self._process.kill()

    def close(self) -> None:
        """Ends the child; it is not asked twice."""
        self._pipe.close()
        self._end(wait_s=2.0)

    def _end(self, wait_s: float = 0.0) -> None:
        try:
            self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._tail.close()
        self._pipe.close()
        assert self._process.stdin is not None
        self._process.stdin.close()


class _OutputTail:
    """The end of what a process prints, read all the time so that it can always go on."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._file = process.stdout
        self._bytes = b""
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        more = True
        while more:
            self._waits()
            with self._lock:
                more = self._take()

    def _waits(self, timeout_ms: int | None = None) -> bool:
        """Whether there is something to read, or the end. A poll object of its own: each serves one thread at a time."""
        ready = select.poll()
        ready.register(self._file, select.POLLIN)
        return bool(ready.poll(timeout_ms))

    def _take(self) -> bool:
        """Reads what is there; False at the end."""
        if not self._waits(0):  # `forget` was faster
            return True
        some = os.read(self._file.fileno(), _TAIL_BYTES)
        self._bytes = (self._bytes + some)[-_TAIL_BYTES:]
        return bool(some)

    def forget(self) -> None:
        """Also what was printed and not read yet: a crash to come must not be explained by it."""
        with self._lock:
            while not self._file.closed and self._waits(0) and self._take():
                pass
            self._bytes = b""

    def text(self) -> str:
        return self._bytes.decode(errors="replace")

    def close(self) -> None:
        """Closes the pipe after the process ended; something that it started may still hold the pipe, and is not waited
        for."""
        self._thread.join(1.0)
        if not self._thread.is_alive():
            self._file.close()


def _rebuilt(kind: type[TestbedError], message: str) -> TestbedError:
    try:
        return kind(message)
    except TypeError:
        return TestbedError(message)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _one_line(text: str) -> str:
    """The last line that says something, and not too much of it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
