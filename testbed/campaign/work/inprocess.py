"""A worker without a process of its own: a crash is everybody's, and a hang is for ever. For looking into an engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from testbed.campaign.work.calls import HandlerCall, Returned
from testbed.campaign.work.contract import Handler
from testbed.core.errors import EngineError
from testbed.core.process.child import OUT_OF_MEMORY
from testbed.core.process.isolate import OutOfMemory

T = TypeVar("T")


class InProcess:
    """What `testbed.core.process.isolate.Isolated` is, in this process."""

    def __init__(
        self, factory: Callable[..., Handler], arguments: tuple[Any, ...] = (), *, idle_s: float | None = None
    ) -> None:
        self._make = lambda: factory(*arguments)
        self._handler: Handler | None = None
        self.alive = True

    def begin(self) -> None:
        """Nothing runs beside this process."""

    def open(self, timeout_s: float) -> None:
        self._handler = _guarded(self._make)

    def call(self, call: HandlerCall[Returned], timeout_s: float) -> Returned:
        """Raises OutOfMemory, or what the handler raised."""
        assert self._handler is not None
        handler = self._handler
        return _guarded(lambda: call(handler))

    def kill(self) -> None:
        """Nothing can be killed here; `close` follows."""

    def close(self) -> None:
        handler, self._handler, self.alive = self._handler, None, False
        if handler is not None:
            handler.close()


def _guarded(work: Callable[[], T]) -> T:
    try:
        return work()
    except MemoryError as error:
        raise OutOfMemory(f"out of memory: {error}") from error
    except EngineError as error:
        if OUT_OF_MEMORY.search(str(error)):
            raise OutOfMemory(str(error)) from error
        raise
