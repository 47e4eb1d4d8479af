"""Workers on a Dask cluster. Units are pinned to workers by this process, which is also the one that writes rows.

Pinning keeps the choice of worker here: one whose golden differs, or that does not see the run folder, is refused by
name before it gets a unit; what a vanished worker held is given to others.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterable
from typing import Self

from testbed.campaign.cluster_roster import Member, News, Roster, gathered
from testbed.campaign.cluster_worker import Answer, Job, work
from testbed.campaign.work import Keep, Limits, Opener, Report, Tick, Unit
from testbed.core.files import sha256_file
from testbed.core.provenance import installed_version
from testbed.core.runfolder import MANIFEST, RunFolder

log = logging.getLogger(__name__)

_MUSTER_S = 0.5
_TICK_S = 1.0


class ClusterCrew:
    """All workers that are known to the scheduler at ``address``, those that join later included."""

    def __init__(self, opener: Opener, address: str, folder: RunFolder, limits: Limits | None = None) -> None:
        """Raises TestbedError where no scheduler answers."""
        self._opener, self._folder = opener, folder
        self._limits = limits or Limits()
        self._token = uuid.uuid4().hex
        self._roster = Roster(address)

    def run(self, units: Iterable[Unit], keep: Keep, tick: Tick = lambda workers: None) -> Report:
        """See `testbed.campaign.work.Crew`. Raises TestbedError when no fit worker is left, or the scheduler is gone."""
        path = self._folder.path.resolve()
        job = Job(
            token=self._token,
            folder=str(path),
            manifest=sha256_file(path / MANIFEST),
            version=installed_version("testbed"),
            opener=self._opener,
            limits=self._limits,
        )
        self._roster.begin(job)
        shift, start = _Shift(self._roster, self._limits, units, keep), time.perf_counter()
        try:
            shift.run(tick)
        except BaseException:
            self._roster.stop()
            shift.keep_finished()
            raise
        finally:
            shift.report.wall_seconds = time.perf_counter() - start
        return shift.report

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._roster.close()


class _Shift:
    """One run of units."""

    def __init__(self, roster: Roster, limits: Limits, units: Iterable[Unit], keep: Keep) -> None:
        self._roster, self._limits, self._units, self._keep = roster, limits, iter(units), keep
        self._back: deque[Unit] = deque()
        self._losses: Counter[int] = Counter()
        self._left_in_a_row = 0
        self._writable = True
        self._mustered = time.perf_counter()
        self.report = Report()

    def run(self, tick: Tick) -> None:
        self._muster()
        ticked = time.perf_counter()
        while self._hand_out():
            with contextlib.suppress(queue.Empty):
                self._hear(self._roster.news.get(timeout=_MUSTER_S))
                while True:  # all that is there, before the next look around
                    self._hear(self._roster.news.get_nowait())
            if time.perf_counter() - self._mustered >= _MUSTER_S:
                self._muster()
            if time.perf_counter() - ticked >= _TICK_S:
                ticked = time.perf_counter()
                tick(self._threads)
        self._count_time()

    @property
    def _threads(self) -> int:
        return sum(member.threads for member in self._roster.fit)

    def _hand_out(self) -> bool:
        """Fills every fit worker, one unit each in turn; False when everything is done."""
        while takers := [member for member in self._roster.fit if member.has_room]:
            for member in takers:
                unit = self._next()
                if unit is None:
                    return any(member.units for member in self._roster.members.values())
                self._roster.give(member, work, unit)
        unit = self._next()  # nobody has room: is there anything to wait for?
        if unit is not None:
            self._back.appendleft(unit)
        return unit is not None or any(member.units for member in self._roster.members.values())

    def _next(self) -> Unit | None:
        return self._back.popleft() if self._back else next(self._units, None)

    # ---- who is there

    def _muster(self) -> None:
        self._count_time()
        for member in self._roster.muster():
            self._vanished(member)

    def _count_time(self) -> None:
        now = time.perf_counter()
        self.report.worker_seconds += (now - self._mustered) * self._threads
        self._mustered = now

    def _vanished(self, member: Member) -> None:
        if member.units:
            log.warning("worker %s, is gone; its units go to others", member)
            self.report.losses += 1
        for unit in self._roster.take_back(member):
            self._lost(unit, f"its worker vanished: {member}")

    def _lost(self, unit: Unit, why: str) -> None:
        self._losses[unit.number] += 1
        if self._losses[unit.number] > self._limits.retries:
            self._leave(unit, why)
        else:
            self._back.append(unit)

    # ---- what they say

    def _hear(self, news: News) -> None:
        member, future = news
        if self._roster.members.get(member.address) is not member:  # it was forgotten meanwhile
            return
        if future.key == member.hello.key:
            self._roster.greeted(member)
        else:
            given = member.units.pop(str(future.key), None)
            if given is None:
                return
            self._answered(news, given[1])
        if member.refused is not None:
            self.report.refused.append(f"{member}: {member.refused}")
            self._back.extend(self._roster.take_back(member))

    def _answered(self, news: News, unit: Unit) -> None:
        member, future = news
        if future.status == "error":
            error = future.exception()
            assert error is not None
            if type(error).__name__ != "KilledWorker":
                raise error
            self.report.losses += 1
            self._lost(unit, f"it was killed again and again: {member}")
            return
        answer: Answer = gathered(future, Answer) or Answer()
        answer.tally.add_to(self.report)
        if answer.rows is not None:
            self._write(unit, answer.rows)
        elif answer.left is not None:
            self._leave(unit, f"{answer.left}, at {member}")
        else:
            self._back.append(unit)
            if answer.refused is not None:
                self._roster.refuse(member, answer.refused)

    def _write(self, unit: Unit, rows: bytes) -> None:
        try:
            self._keep(unit, rows)
        except Exception:
            self._writable = False
            raise
        self.report.done += unit.count
        self._left_in_a_row = 0

    def _leave(self, unit: Unit, why: str) -> None:
        log.warning("unit %d of the work is left: %s", unit.number, why)
        self.report.left |= dict.fromkeys(unit.numbers, why)
        self._left_in_a_row += 1
        if self._left_in_a_row >= self._limits.left_in_a_row:
            self.report.check_complete()

    def keep_finished(self) -> None:
        """After an interruption: what is finished is fetched and kept, the rest taken back."""
        for member in self._roster.members.values():
            for future, unit in list(member.units.values()):
                if self._writable and (answer := gathered(future, Answer)) is not None and answer.rows is not None:
                    self._write(unit, answer.rows)
            for _ in self._roster.take_back(member):
                pass
