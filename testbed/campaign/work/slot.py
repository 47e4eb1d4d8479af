"""One place of work, with a worker that is replaced when it dies; and whose fault it was.

A unit on which the engine fails is bisected on fresh workers, down to single faults; what does not fail is kept. A fault
is DUE only if it fails alone, and again, alone, on fresh workers, each of which has computed the golden before. Lost
workers and too little memory are nobody's fault: the unit is tried again.
"""

from __future__ import annotations

import gc
import platform
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

from testbed.campaign.plan.unit import Unit
from testbed.campaign.results.arrow import join_streams
from testbed.campaign.work.calls import (
    BlameFaults,
    EvaluateUnit,
    GetEngineSeconds,
    GetGolden,
    GetGoldenSeconds,
    HandlerCall,
    Returned,
    RunUnit,
)
from testbed.campaign.work.contract import Due, Limits, MakeStream, Opener, SlotTally
from testbed.core.errors import EngineError, TestbedError
from testbed.core.folder.provenance import processor
from testbed.core.process.isolate import Crashed, Hung, Isolated, Lost, Stopped, WorkerFailed

_ENGINE_FAILED = (Crashed, Hung, EngineError)


class Left(Exception):
    """The unit could not be done: its workers were lost again and again. One line."""


class CannotOpen(TestbedError):
    """No worker can be opened here."""


class OtherGolden(TestbedError):
    """This machine's engine gives other bits than the campaign's."""


class Host(Protocol):
    """Where a handler lives: what `Isolated` is."""

    @property
    def alive(self) -> bool: ...
    def begin(self) -> None: ...
    def open(self, timeout_s: float) -> None: ...
    def call(self, call: HandlerCall[Returned], timeout_s: float) -> Returned: ...
    def kill(self) -> None: ...
    def close(self) -> None: ...


class WorkerSlot:
    """Used by one thread; `stop` comes from any."""

    def __init__(
        self,
        opener: Opener,
        limits: Limits,
        *,
        idle_s: float | None = None,
        make: Callable[..., Host] = Isolated,
        unit_call: type[RunUnit] | type[EvaluateUnit] = RunUnit,
    ) -> None:
        self._opener, self._limits, self._idle_s, self._make = opener, limits, idle_s, make
        self._unit_call = unit_call
        self._worker: Host | None = None
        self._begun: Host | None = None
        self._worked = False
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.tally = SlotTally()

    # ---- units

    def finish(self, unit: Unit) -> bytes:
        """The unit's rows; `tally` tells what it took. Raises as `evaluate` does, or what the making of rows does."""
        return self.evaluate(unit)()

    def evaluate(self, unit: Unit) -> MakeStream:
        """Has the unit's faults run. With `EvaluateUnit` its rows are made by whoever calls what is given back.

        Raises Left, CannotOpen, OtherGolden, Stopped, or what the handler raised and what is not an engine failure.
        """
        self.tally = SlotTally()
        why = ""
        for delay_s in self._delays():
            self._wait(delay_s)
            try:
                return partial(_stream_of, list(self._chunks(unit, range(len(unit)))))
            except Lost as loss:
                self.tally.losses += 1
                why = str(loss)
                self._discard()
        raise Left(why)

    def _chunks(self, unit: Unit, faults: range) -> Iterator[bytes | MakeStream]:
        try:
            yield self._run(unit, faults)
            return
        except _ENGINE_FAILED:
            pass
        if len(faults) == 1:
            yield self._verdict(unit, faults)
            return
        middle = len(faults) // 2
        yield from self._chunks(unit, faults[:middle])
        yield from self._chunks(unit, faults[middle:])

    def _verdict(self, unit: Unit, fault: range) -> bytes | MakeStream:
        """Rows of a fault that failed alone: DUE if it fails each time again."""
        due: Due = "crash"
        for _ in range(self._limits.confirmations):
            self._discard()
            try:
                return self._run(unit, fault, retried=True)
            except _ENGINE_FAILED as failure:
                due = "hang" if isinstance(failure, Hung) else "crash"
        self.tally.blamed += 1
        return self._aside(BlameFaults(unit, list(fault), due))

    def _run(self, unit: Unit, faults: range, retried: bool = False) -> bytes | MakeStream:
        """Raises one of _ENGINE_FAILED, and then the worker is gone."""
        golden_s = self._aside(GetGoldenSeconds(unit, len(faults)))
        named = None if len(faults) == len(unit) else list(faults)
        timeout_s = self._limits.timeout_s(golden_s)
        before_s = self._aside(GetEngineSeconds())
        worker = self._opened()
        try:
            call: HandlerCall[bytes | MakeStream] = self._unit_call(unit, named, retried)
            rows = worker.call(call, timeout_s)
        except _ENGINE_FAILED as failure:
            self.tally.crashes += not isinstance(failure, Hung)
            self.tally.hangs += isinstance(failure, Hung)
            self._discard()
            raise
        self.tally.engine_seconds += self._aside(GetEngineSeconds()) - before_s
        return rows

    def _aside(self, call: HandlerCall[Returned]) -> Returned:
        """A call that strikes nothing: if the worker dies of it, no fault is to blame."""
        worker = self._opened()
        try:
            return worker.call(call, self._limits.open_s)
        except _ENGINE_FAILED as failure:
            raise Lost(str(failure)) from failure

    # ---- the worker

    def begin(self) -> None:
        """Starts a worker and does not wait for it: whoever opens one next finds it well on its way."""
        with self._lock:
            if self._begun is None and self._worker is None:
                self._begun = self._make(self._opener.factory, self._opener.arguments, idle_s=self._idle_s)
                self._begun.begin()

    def open(self) -> None:
        """Makes sure that a worker is there. Raises CannotOpen, OtherGolden, Stopped, or what its opening raised."""
        self._opened()

    def _opened(self) -> Host:
        if self._worker is not None and self._worker.alive:
            return self._worker
        why = ""
        for delay_s in self._delays():
            self._discard()
            self._wait(delay_s)
            try:
                return self._open_one()
            except EngineError as failure:
                why = str(failure)
                if not self._worked:  # it never could: a second try would say the same
                    raise CannotOpen(why) from failure
            except Stopped:
                raise
            except WorkerFailed as failure:
                why = str(failure)
        raise CannotOpen(f"no worker can be opened on {machine_name()}: {why}; run the same command again to go on")

    def _open_one(self) -> Host:
        with self._lock:
            worker, self._begun = self._begun, None
        worker = worker or self._make(self._opener.factory, self._opener.arguments, idle_s=self._idle_s)
        with self._lock:
            self._worker = worker
            if self._stop.is_set():
                worker.kill()
        try:
            worker.open(self._limits.open_s)
            golden = worker.call(GetGolden(), self._limits.open_s)
        except BaseException:
            self._discard()
            raise
        if golden != dict(self._opener.golden):
            self._discard()
            raise OtherGolden(
                f"the engine on {machine_name()} gives other golden bits than the one this campaign was begun on; go on there,"
                " or start anew in another folder"
            )
        self._worked = True
        return worker

    def _discard(self) -> None:
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()
            worker.close()

    def _delays(self) -> Iterator[float]:
        yield 0.0
        for number in range(self._limits.retries):
            yield self._limits.backoff_s * 2**number

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped("stopped")

    def stop(self) -> None:
        """Ends the worker at once, for good."""
        with self._lock:
            self._stop.set()
            for worker in (self._worker, self._begun):
                if worker is not None:
                    worker.kill()

    def close(self) -> None:
        self.stop()
        self._discard()
        with self._lock:
            begun, self._begun = self._begun, None
        if begun is not None:
            begun.close()


def _stream_of(chunks: Sequence[bytes | MakeStream]) -> bytes:
    try:
        return _joined(chunks)
    except MemoryError:
        gc.collect()
    try:
        return _joined(chunks)
    except MemoryError as error:
        raise TestbedError("out of memory while rows were made; run the same command again to go on") from error


def _joined(chunks: Sequence[bytes | MakeStream]) -> bytes:
    return join_streams([chunk if isinstance(chunk, bytes) else chunk() for chunk in chunks])


def machine_name() -> str:
    """Where this process runs, for people."""
    return f"{platform.node()} ({processor()})"
