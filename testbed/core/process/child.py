"""What runs in an isolated process: it opens a handler and answers calls until its parent is gone.

Started by `testbed.core.process.isolate`, with nothing inherited but three pipes: calls and answers as pickles on one
descriptor, both ordinary outputs on another (its parent keeps the end of them), and standard input, on which nothing
ever comes: it ends when the parent does.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import resource
import select
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from testbed.core.errors import EngineError, TestbedError

OUT_OF_MEMORY = re.compile(
    r"bad_alloc|out of (\w+ )?memory|OUT_OF_MEMORY|MemoryError|ALLOC_FAILED"
    r"|(failed to|can't|cannot|could not|unable to|not enough memory to) allocate|not enough memory",
    re.IGNORECASE,
)

# kinds of answers: (kind, value)
VALUE, ERROR, MEMORY, BUG = "value", "error", "memory", "bug"


def main(descriptor: int, idle_s: float | None) -> None:
    """Serves calls. idle_s: ends by itself when no call comes for so long."""
    end_with_parent()
    be_expendable()
    connection = Connection(descriptor)
    handler: Any = None
    while connection.poll(idle_s):
        try:
            request = connection.recv_bytes()
        except (EOFError, OSError):
            break
        handler, answer = _answered(handler, request)
        sys.stdout.flush()  # what it says belongs to this call
        connection.send_bytes(answer)
    os._exit(0)  # an engine's tidying up is not waited for, nor can it fail


def _answered(handler: Any, request: bytes) -> tuple[Any, bytes]:
    """The first request opens the handler: (factory, arguments); the others are applied to it: (call, ())."""
    try:
        call, arguments = pickle.loads(request)
        if handler is None:
            handler = call(*arguments)
            return handler, pickle.dumps((VALUE, None))
        return handler, pickle.dumps((VALUE, call(handler)))
    except MemoryError as error:
        return handler, pickle.dumps((MEMORY, str(error) or "MemoryError"))
    except TestbedError as error:
        if isinstance(error, EngineError) and OUT_OF_MEMORY.search(str(error)):
            return handler, pickle.dumps((MEMORY, str(error)))
        return handler, pickle.dumps((ERROR, (type(error), str(error))))
    except BaseException:
        return handler, pickle.dumps((BUG, traceback.format_exc()))


def end_with_parent() -> None:
    """The system ends this process when the parent's end of standard input is closed, whatever it is doing then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal: the parent decides
    with contextlib.suppress(ImportError, AttributeError, OSError, ValueError):
        import fcntl

        signal.signal(signal.SIGIO, signal.SIG_DFL)  # which ends the process, even one that hangs in native code
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGIO})
        fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([0], [], [], 0)[0]:  # it died before we asked to be told
        os._exit(0)


def be_expendable() -> None:
    """No core file for a crash that is meant to happen; and when memory runs out, this process goes, not its parent."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")
    sys.stdout.flush()
