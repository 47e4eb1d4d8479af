"""Workers on this machine: isolated processes, each fed by a thread; their rows go to the one writer, this thread."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Self

from testbed.campaign.plan.unit import Unit
from testbed.campaign.work.calls import EvaluateUnit
from testbed.campaign.work.contract import Drop, Keep, Limits, MakeStream, Opener, Report, SlotTally, Tick
from testbed.campaign.work.inprocess import InProcess
from testbed.campaign.work.keeping import KeepingThread
from testbed.campaign.work.slot import CannotOpen, Left, WorkerSlot
from testbed.core.errors import TestbedError
from testbed.core.process.isolate import Stopped

log = logging.getLogger(__name__)

_TICK_S = 1.0


class _Done(NamedTuple):
    """A finished unit. make: its rows, made where they are kept."""

    unit: Unit
    make: MakeStream
    tally: SlotTally


class _GivenUp(NamedTuple):
    """Given up: the unit is left."""

    unit: Unit
    why: str
    tally: SlotTally


class _SlotClosed(NamedTuple):
    """This slot can open no worker; the others go on."""

    why: CannotOpen


_Event = _Done | _GivenUp | _SlotClosed | BaseException
_Queue = queue.Queue[_Event | None]  # None: a thread has ended


class LocalPool:
    """``children`` isolated processes; with 0, everything runs in this process. Ends them all on leaving the block."""

    def __init__(self, opener: Opener, children: int, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        if children:
            self._slots = [WorkerSlot(opener, self._limits) for _ in range(children)]
        else:
            self._slots = [WorkerSlot(opener, self._limits, make=InProcess, unit_call=EvaluateUnit)]
        self._threaded = children > 0

    def begin(self) -> None:
        """Starts the workers and does not wait for them."""
        for slot in self._slots:
            slot.begin()

    def run(
        self,
        units: Iterable[Unit],
        keep: Keep,
        tick: Tick = lambda workers: None,
        drop: Drop = lambda units: None,
    ) -> Report:
        """See `testbed.campaign.work.contract.WorkerPool`."""
        report, start = Report(), time.perf_counter()
        log_of = _Log(report, keep, self._limits)
        try:
            if self._threaded:
                self._run_threads(units, log_of, tick)
            else:
                self._run_here(units, log_of, tick)
        finally:
            report.wall_seconds = time.perf_counter() - start
            report.worker_seconds = report.wall_seconds * len(self._slots)
        return report

    def _run_here(self, units: Iterable[Unit], log_of: _Log, tick: Tick) -> None:
        """Faults are run in this thread, so that Ctrl-C and a debugger find them; what they gave is noted in another."""
        (slot,) = self._slots

        def note(item: _Event) -> None:
            log_of.note(item)
            tick(1)

        with KeepingThread(note) as keeping:
            for unit in units:
                item = _attempt(slot, unit)
                if isinstance(item, BaseException):
                    raise item
                keeping.put(item)
                del item  # it holds its outputs and engines, which may be closed while the next unit is run

    def _run_threads(self, units: Iterable[Unit], log_of: _Log, tick: Tick) -> None:
        source = UnitQueue(units)
        events: _Queue = queue.Queue(maxsize=2 * len(self._slots))  # a slow disk slows the workers, memory stays flat
        threads = [threading.Thread(target=_serve, args=(slot, source, events), daemon=True) for slot in self._slots]
        for thread in threads:
            thread.start()
        queued = _Events(events, len(threads))
        try:
            for item in queued.until_quiet(tick):
                log_of.note(item)
        except BaseException:
            source.close()
            for slot in self._slots:
                slot.stop()
            for item in queued.until_quiet():
                if isinstance(item, _Done) and log_of.writable:
                    log_of.note(item)
            raise
        finally:  # also of a second Ctrl-C, anywhere above
            source.close()
            _end(threads, events)
        if source.left():
            raise log_of.gone or TestbedError("no worker is left; run the same command again to go on")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for slot in self._slots:
            slot.close()


class _Log:
    """Writes what comes in, and counts it."""

    def __init__(self, report: Report, keep: Keep, limits: Limits) -> None:
        self._report, self._keep, self._limits = report, keep, limits
        self._left_in_a_row = 0
        self.gone: CannotOpen | None = None
        self.writable = True

    def note(self, item: _Event) -> None:
        if isinstance(item, BaseException):
            raise item
        if isinstance(item, _SlotClosed):
            self.gone = item.why
            log.warning("a worker is out: %s", item.why)
            return
        self._report.count(item.tally)
        if isinstance(item, _Done):
            rows = item.make()
            try:
                self._keep(item.unit, rows)
            except Exception:
                self.writable = False
                raise
            self._report.done += item.unit.count
            self._left_in_a_row = 0
            return
        log.warning("unit %d of the work is left: %s", item.unit.number, item.why)
        self._report.left |= dict.fromkeys(item.unit.numbers, item.why)
        self._left_in_a_row += 1
        if self._left_in_a_row >= self._limits.left_in_a_row:
            self._report.check_complete()


class UnitQueue:
    """Units for the threads to take. One that a slot could not even begin is given to another."""

    def __init__(self, units: Iterable[Unit]) -> None:
        self._units = iter(units)
        self._back: deque[Unit] = deque()
        self._out = 0
        self._closed = False
        self._changed = threading.Condition()

    def next_unit(self) -> Unit | None:
        """None when there is nothing left to do, which may not be known before others are done."""
        with self._changed:
            while not self._closed:
                unit = self._back.popleft() if self._back else next(self._units, None)
                if unit is not None:
                    self._out += 1
                    return unit
                if not self._out:
                    break
                self._changed.wait()
            return None

    def done(self, back: Unit | None = None) -> None:
        with self._changed:
            self._out -= 1
            if back is not None:
                self._back.append(back)
            self._changed.notify_all()

    def left(self) -> bool:
        with self._changed:
            if not self._back and (unit := next(self._units, None)) is not None:
                self._back.append(unit)
            return bool(self._back)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _attempt(slot: WorkerSlot, unit: Unit) -> _Event:
    """What came of it; a BaseException is to be raised by the one who hears of it."""
    try:
        return _Done(unit, slot.evaluate(unit), slot.tally)
    except Left as left:
        return _GivenUp(unit, str(left), slot.tally)
    except BaseException as error:
        return error


def _end(threads: Sequence[threading.Thread], events: _Queue) -> None:
    """Waits for the threads, whose last words nobody may have heard: they must not wait for that."""
    for thread in threads:
        while thread.is_alive():
            with contextlib.suppress(queue.Empty):
                events.get(timeout=0.1)


def _serve(slot: WorkerSlot, source: UnitQueue, events: _Queue) -> None:
    """A thread's life: one unit after the other, until there are none or no worker can be had."""
    try:
        while (unit := source.next_unit()) is not None:
            item = _attempt(slot, unit)
            if isinstance(item, CannotOpen):
                events.put(_SlotClosed(item))
                source.done(back=unit)
                return
            if not isinstance(item, Stopped):
                events.put(item)
            source.done()
    except BaseException as error:  # of what makes the units
        events.put(error)
    finally:
        events.put(None)


class _Events:
    """What the threads tell."""

    def __init__(self, events: _Queue, threads: int) -> None:
        self._events, self._alive = events, threads

    def until_quiet(self, tick: Tick = lambda workers: None) -> Iterator[_Event]:
        """Everything, until the threads have ended."""
        ticked = time.monotonic()
        while self._alive:
            with contextlib.suppress(queue.Empty):
                item = self._events.get(timeout=_TICK_S)
                if item is None:
                    self._alive -= 1
                else:
                    yield item
            if time.monotonic() - ticked >= _TICK_S:
                ticked = time.monotonic()
                tick(self._alive)
