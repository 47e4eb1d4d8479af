"""How far a campaign is: rate, time to go, outcomes so far, the interval that is widest now.

For who watches (``show``), and for any other shell: ``status.json`` in the run folder, written at most once a second.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from testbed.campaign.files import STATUS
from testbed.campaign.results.arrow import from_stream
from testbed.campaign.results.outcome_counts import COLUMNS, OutcomeCounts
from testbed.campaign.results.snapshot import Snapshot, Steps, Widest
from testbed.core.errors import TestbedError
from testbed.core.folder.files import write_json
from testbed.core.folder.provenance import who

_WINDOW_S = 60.0
_EVERY_S = 1.0


Advance = Callable[[int], None]
"""Is told how many are done since it was last told."""

Watch = Callable[[str, int, str], AbstractContextManager[Advance]]
"""(stage, total, what) -> for the length of the block, counts what is done."""


@contextlib.contextmanager
def unwatched(stage: str, total: int, what: str) -> Iterator[Advance]:
    """A `Watch` for work that nobody watches."""
    yield lambda done: None


class FinishedUnits(NamedTuple):
    """Finished units: how many, their faults, and their rows as an Arrow IPC stream."""

    units: int
    faults: int
    rows: bytes


Show = Callable[[Snapshot], None]


class Progress:
    """Fed by the campaign, in one thread."""

    def __init__(self, folder: Path, show: Show = lambda snapshot: None) -> None:
        self._file, self._show = folder / STATUS, show
        self._counts = OutcomeCounts()
        self._stage, self._workers = "", 0
        self._units = self._faults = self._units_done = self._faults_done = 0
        self._past: deque[tuple[float, int]] = deque()  # (time, faults done in this process)
        self._done_here = 0
        self._rounds = False
        self._widest: Widest | None = None
        self._written = float("-inf")
        self._what, self._total, self._done = "", 0, 0

    @contextlib.contextmanager
    def watch(self, stage: str, total: int, what: str) -> Iterator[Advance]:
        """A stage that runs no faults but counts something else; see `Watch`."""
        self._stage, self._what, self._total, self._done = stage, what, total, 0
        self._past = deque([(time.monotonic(), 0)])
        self._tell(now=True)

        def advance(done: int) -> None:
            self._done += done
            self._past.append((time.monotonic(), self._done))
            self._tell()

        yield advance
        self._tell(now=True)
        self._what = ""

    def begin(
        self,
        stage: str,
        units: int = 0,
        faults: int = 0,
        done: Iterable[FinishedUnits] = (),
        workers: int = 0,
        rounds: bool = False,
        widest: Widest | None = None,
    ) -> None:
        """A stage of so much work. done: what an earlier process has finished. rounds: whether
        it is one of an adaptive campaign, whose ``widest`` interval is that of the completed rounds, if there are any."""
        self._rounds, self._widest = rounds, widest
        self._stage, self._units, self._faults, self._workers = stage, units, faults, workers
        self._units_done = self._faults_done = 0
        self._what = ""
        for kept in done:
            self._count(kept)
        self._past = deque([(time.monotonic(), self._done_here)])
        self._tell(now=True)

    def finished(self, kept: FinishedUnits) -> None:
        self._count(kept)
        self._done_here += kept.faults
        self._past.append((time.monotonic(), self._done_here))
        self._tell()

    def dropped(self, kept: FinishedUnits) -> None:
        """What was finished, and counts no more."""
        self._count(kept, -1)
        self._tell()

    def tick(self, workers: int) -> None:
        self._workers = workers
        self._tell()

    def end(self, widest: Widest | None = None) -> None:
        """The stage is over; the last word is written. widest: of all rounds of an adaptive campaign."""
        self._widest = widest or self._widest
        self._tell(now=True)

    def _count(self, kept: FinishedUnits, times: int = 1) -> None:
        self._units_done += times * kept.units
        self._faults_done += times * kept.faults
        self._counts.add(from_stream(kept.rows, COLUMNS), times)

    def _tell(self, now: bool = False) -> None:
        clock = time.monotonic()
        if not now and clock - self._written < _EVERY_S:
            return
        self._written = clock
        snapshot = self.snapshot()
        self._show(snapshot)
        with contextlib.suppress(TestbedError):  # a full disk is told by who has rows to write
            write_json(self._file, asdict(snapshot) | {"pid": os.getpid(), **who()})

    def snapshot(self) -> Snapshot:
        if self._what:
            return self._of_steps()
        rate = self._rate(self._done_here)
        return Snapshot(
            stage=self._stage,
            units=self._units,
            units_done=self._units_done,
            faults=self._faults,
            faults_done=self._faults_done,
            faults_per_second=rate,
            eta_s=round((self._faults - self._faults_done) / rate, 1) if rate else None,
            outcomes=dict(self._counts.outcomes),
            widest=self._widest if self._rounds else self._counts.widest,
            workers=self._workers,
            updated=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _of_steps(self) -> Snapshot:
        rate = self._rate(self._done)
        eta = round((self._total - self._done) / rate, 1) if rate else None
        return Snapshot(
            stage=self._stage,
            units=0,
            units_done=0,
            faults=0,
            faults_done=0,
            faults_per_second=None,
            eta_s=eta,
            outcomes={},
            widest=None,
            workers=0,
            updated=datetime.now(UTC).isoformat(timespec="seconds"),
            steps=Steps(self._what, self._total, self._done, rate, eta),
        )

    def _rate(self, so_far: int) -> float | None:
        clock = time.monotonic()
        while len(self._past) > 2 and self._past[1][0] < clock - _WINDOW_S:
            self._past.popleft()
        begun, before = self._past[0] if self._past else (clock, 0)
        done, seconds = so_far - before, clock - begun
        return round(done / seconds, 3) if done > 0 and seconds > 0 else None
