"""One run of units on a cluster: which worker gets which, and what becomes of what each answers."""

from __future__ import annotations

import contextlib
import logging
import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping

from testbed.campaign.plan.unit import Unit
from testbed.campaign.work.contract import Drop, Keep, Limits, Report, Tick
from testbed.campaign.work.dask.checks import Checks
from testbed.campaign.work.dask.members import Member, Members, OtherProgram, TaskEnd, gathered
from testbed.campaign.work.dask.worker import Answer, work
from testbed.campaign.work.row_check import difference
from testbed.campaign.work.slot import Left

log = logging.getLogger(__name__)

_POLL_S = 0.5
_TICK_S = 1.0


class PoolRun:
    """One run of units."""

    def __init__(
        self, members: Members, checks: Checks, limits: Limits, units: Iterable[Unit], keep: Keep, drop: Drop
    ) -> None:
        self._members, self._checks, self._limits = members, checks, limits
        self._units, self._keep, self._drop = iter(units), keep, drop
        self._back: deque[Unit] = deque()
        self._losses: Counter[int] = Counter()
        self._left_in_a_row = 0
        self._writable = True
        self._polled = time.perf_counter()
        self.report = Report()

    def run(self, tick: Tick) -> None:
        self._poll()
        ticked = time.perf_counter()
        while self._hand_out():
            with contextlib.suppress(queue.Empty):
                self._receive(self._members.events.get(timeout=_POLL_S))
                while True:  # all that is there, before the next look around
                    self._receive(self._members.events.get_nowait())
            if time.perf_counter() - self._polled >= _POLL_S:
                self._poll()
            if time.perf_counter() - ticked >= _TICK_S:
                ticked = time.perf_counter()
                tick(self._threads)
        self._count_time()

    @property
    def _threads(self) -> int:
        return sum(member.threads for member in self._members.fit)

    def _hand_out(self) -> bool:
        """Fills every fit worker, one unit each in turn; False when everything is done."""
        more = True
        while more:
            more = False
            for member in [member for member in self._members.fit if member.has_room]:
                unit = self._checks.next_for(member) or self._next()
                if unit is not None:
                    self._members.give(member, work, unit)
                    more = True
        for held in self._checks.alone(list(self._members.members.values())):
            self._settle(held.unit, {held.member: held.rows})
        unit = self._next()  # nobody has room, or there is no more: is there anything to wait for?
        if unit is not None:
            self._back.appendleft(unit)
        busy = any(member.units for member in self._members.members.values())
        return unit is not None or busy or self._checks.pending

    def _next(self) -> Unit | None:
        return self._back.popleft() if self._back else next(self._units, None)

    # ---- who is there

    def _poll(self) -> None:
        self._count_time()
        for member in self._members.poll():
            self._vanished(member)

    def _count_time(self) -> None:
        """Runs that check others' count as work, those on this machine do not."""
        now = time.perf_counter()
        self.report.worker_seconds += (now - self._polled) * self._threads
        self._polled = now

    def _vanished(self, member: Member) -> None:
        if member.units:
            log.warning("worker %s, is gone; its units go to others", member)
            self.report.losses += 1
        for unit in self._members.take_back(member):
            if not self._checks.back(unit):
                self._lost(unit, f"its worker vanished: {member}")

    def _lost(self, unit: Unit, why: str) -> None:
        self._losses[unit.number] += 1
        if self._losses[unit.number] > self._limits.retries:
            self._leave(unit, why)
        else:
            self._back.append(unit)

    # ---- what they say

    def _receive(self, events: TaskEnd) -> None:
        member, future = events
        if self._members.members.get(member.address) is not member:  # it was forgotten meanwhile
            return
        if member.hello is not None and future.key == member.hello.key:
            self._members.greeted(member)
        else:
            given = member.units.pop(str(future.key), None)
            if given is None:
                return
            self._answered(events, given[1])
        if member.refused is not None:
            self._refused(member)

    def _answered(self, events: TaskEnd, unit: Unit) -> None:
        member, future = events
        if future.status == "error":
            error = future.exception()
            assert error is not None
            if type(error).__name__ != "KilledWorker":
                raise error
            self.report.losses += 1
            if not self._checks.back(unit):
                self._lost(unit, f"it was killed again and again: {member}")
            return
        try:
            answer = gathered(future, Answer)
        except OtherProgram as other:
            self._again(unit)
            self._distrust(member, str(other))
            return
        if answer is None:
            if not self._checks.back(unit):
                self._lost(unit, f"its rows did not arrive: {member}")
            return
        if self._checks.is_check(unit):  # what became of the unit is told already
            self.report.engine_seconds += answer.tally.engine_seconds
        else:
            self.report.count(answer.tally)
        if answer.rows is not None:
            self._receive_rows(member, unit, answer.rows)
        elif answer.left is not None and not self._checks.is_check(unit):
            self._leave(unit, f"{answer.left}, at {member}")
        else:
            self._again(unit)
            if answer.refused is not None:
                self._members.refuse(member, answer.refused)

    def _again(self, unit: Unit) -> None:
        """Queues the unit again for another worker; it was no fault of the unit's."""
        if not self._checks.back(unit):
            self._back.append(unit)

    def _receive_rows(self, member: Member, unit: Unit, rows: bytes) -> None:
        """Rows are kept when they can be the unit's and, where they have to wait for another's, those are the same."""
        if (why := self._checks.impossible(unit, rows)) is not None:
            self._again(unit)
            self._distrust(member, why)
        elif (held := self._checks.answered(unit)) is not None:
            if difference(held.rows, rows) is None:
                self._write(unit, rows, held.member)
            else:
                self._settle(unit, {held.member: held.rows, member: rows})
        elif self._checks.wants(member, unit):
            self._checks.hold(member, unit, rows)
        else:
            self._write(unit, rows, member)

    def _settle(self, unit: Unit, answers: Mapping[Member, bytes]) -> None:
        """This machine's own engine says what is right, where two workers differ or there is only one."""
        try:
            rows = self._checks.here(unit)
        except Left as left:
            self._leave(unit, f"{left}, on this machine")
            return
        self._write(unit, rows, None)
        for member, theirs in answers.items():
            if (why := difference(theirs, rows)) is not None:
                self._distrust(member, why)

    def _distrust(self, member: Member, why: str) -> None:
        """Takes no more from this worker, and throws away what it has given."""
        if member.refused is None:
            self._members.refuse(member, f"{why}; what it did is thrown away and done again")
        self._refused(member)
        self._back.extend(self._checks.forget(member))
        thrown = self._checks.kept.pop(member.address, [])
        if thrown:
            self._writes(lambda: self._drop(thrown))
            self.report.done -= sum(unit.count for unit in thrown)
            self._back.extend(thrown)

    def _refused(self, member: Member) -> None:
        named = f"{member}: {member.refused}"
        if named not in self.report.refused:
            self.report.refused.append(named)
        for unit in self._members.take_back(member):
            self._again(unit)

    def _write(self, unit: Unit, rows: bytes, member: Member | None) -> None:
        """Writes a unit's rows. member: whose rows they are; None for this machine's own."""
        self._writes(lambda: self._keep(unit, rows))
        if member is not None:
            self._checks.kept.setdefault(member.address, []).append(unit)
        self.report.done += unit.count
        self._left_in_a_row = 0

    def _writes(self, change: Callable[[], None]) -> None:
        try:
            change()
        except Exception:
            self._writable = False
            raise

    def _leave(self, unit: Unit, why: str) -> None:
        log.warning("unit %d of the work is left: %s", unit.number, why)
        self.report.left |= dict.fromkeys(unit.numbers, why)
        self._left_in_a_row += 1
        if self._left_in_a_row >= self._limits.left_in_a_row:
            self.report.check_complete()

    def keep_finished(self) -> None:
        """Fetches and keeps what is finished after an interruption, and takes the rest back."""
        for member in self._members.members.values():
            for future, unit in list(member.units.values()):
                if not self._writable or self._checks.is_check(unit) or member.refused is not None:
                    continue
                with contextlib.suppress(OtherProgram):
                    rows = (gathered(future, Answer) or Answer()).rows
                    possible = rows is not None and self._checks.impossible(unit, rows) is None
                    if rows is not None and possible and not self._checks.wants(member, unit):
                        self._write(unit, rows, member)
            for _ in self._members.take_back(member):
                pass
