"""Which units of a cluster's workers are run again elsewhere before their rows are believed, and what waits for that."""

from __future__ import annotations

import hashlib
import secrets
from collections import deque
from dataclasses import dataclass, field

from testbed.campaign.plan.unit import Unit
from testbed.campaign.work.contract import Limits, Opener
from testbed.campaign.work.dask.members import Member
from testbed.campaign.work.row_check import Expect, read_rows
from testbed.campaign.work.slot import WorkerSlot


@dataclass(frozen=True)
class Recheck:
    """How much of a cluster's work is run again. share: of a worker's units, besides its first, that are run again on
    another. expect: what every unit's rows are held against. seed: of the draw; new for each run, as a worker that knew
    it could lie where nobody looks."""

    share: float = 0.02
    expect: Expect = lambda unit, rows: None
    seed: int = field(default_factory=lambda: secrets.randbits(64))

    def draws(self, unit: Unit) -> bool:
        digest = hashlib.sha256(f"{self.seed}:{unit.plan}:{unit.number}".encode()).digest()
        return int.from_bytes(digest[:8], "little") < self.share * 2**64


@dataclass
class Held:
    """Rows that wait for another's. asked: whether somebody runs the unit again now. failed: how often that came to nothing."""

    unit: Unit
    member: Member
    rows: bytes
    asked: bool = False
    failed: int = 0


class Checks:
    """The checks of one campaign on a cluster, all its rounds."""

    def __init__(self, recheck: Recheck, opener: Opener, limits: Limits) -> None:
        self._recheck = recheck
        self._slot, self._retries = WorkerSlot(opener, limits), limits.retries
        self._seen: set[str] = set()  # addresses of workers with a unit that was, or is being, run again
        self._held: dict[int, Held] = {}  # by the unit's number
        self._waiting: deque[Held] = deque()
        self.kept: dict[str, list[Unit]] = {}  # whose rows are in the store, by the worker's address
        self.rows = 0  # that were run again

    @property
    def pending(self) -> bool:
        return bool(self._held)

    def impossible(self, unit: Unit, rows: bytes) -> str | None:
        """Why these cannot be the unit's rows; nothing is run for it."""
        if not isinstance(rows, bytes):
            return f"its rows are of type {type(rows).__name__}"
        try:
            read_rows(rows)
        except ValueError as error:
            return str(error)
        return self._recheck.expect(unit, rows)

    def wants(self, member: Member, unit: Unit) -> bool:
        """Whether the unit's rows must wait for another worker's: a worker's first, and a share of the others."""
        if self._recheck.share == 0:
            return False
        first = member.address not in self._seen
        self._seen.add(member.address)
        return first or self._recheck.draws(unit)

    def hold(self, member: Member, unit: Unit, rows: bytes) -> None:
        self._held[unit.number] = held = Held(unit, member, rows)
        self._waiting.append(held)

    def next_for(self, member: Member) -> Unit | None:
        """Another's unit for this worker to run again."""
        for held in self._waiting:
            if held.member.address != member.address and held.failed <= self._retries:
                self._waiting.remove(held)
                held.asked = True
                return held.unit
        return None

    def alone(self, members: list[Member]) -> list[Held]:
        """Those for which there is nobody else, now or soon, or others could not do it: they are taken from here, and must
        be run on this machine."""
        others = {member.address for member in members if member.refused is None}
        stranded = [held for held in self._waiting if held.failed > self._retries or not others - {held.member.address}]
        for held in stranded:
            self._waiting.remove(held)
            del self._held[held.unit.number]
        return stranded

    def is_check(self, unit: Unit) -> bool:
        return unit.number in self._held

    def back(self, unit: Unit) -> bool:
        """The unit was not run again after all. False where it is not one that was to be."""
        held = self._held.get(unit.number)
        if held is not None and held.asked:
            held.asked = False
            held.failed += 1
            self._waiting.append(held)
        return held is not None

    def answered(self, unit: Unit) -> Held | None:
        """What waited for these rows; None where nothing did."""
        held = self._held.pop(unit.number, None)
        self.rows += 0 if held is None else unit.rows
        return held

    def forget(self, member: Member) -> list[Unit]:
        """Throws away what a worker's rows wait for; the units that nobody is running now. What another is running again
        becomes that one's own."""
        thrown = [held for held in self._held.values() if held.member.address == member.address]
        for held in thrown:
            del self._held[held.unit.number]
            if not held.asked:
                self._waiting.remove(held)
        return [held.unit for held in thrown if not held.asked]

    def here(self, unit: Unit) -> bytes:
        """The unit's rows as this machine's own engine gives them. Raises as `WorkerSlot.finish`."""
        self.rows += unit.rows
        return self._slot.finish(unit)

    def close(self) -> None:
        self._slot.close()
