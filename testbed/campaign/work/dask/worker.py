"""What runs inside a Dask worker: it drives isolated children, so that an engine that crashes never takes it along."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from testbed.campaign.plan.unit import Unit
from testbed.campaign.work.contract import Limits, Opener, SlotTally
from testbed.campaign.work.slot import CannotOpen, Left, OtherGolden, WorkerSlot, machine_name
from testbed.core.folder.files import sha256_file
from testbed.core.folder.manifest import MANIFEST
from testbed.core.folder.provenance import installed_version
from testbed.core.process.isolate import Stopped

_IDLE_S = 120.0  # a child whose campaign has vanished goes too
_POLL_S = 0.25


@dataclass(frozen=True)
class Job:
    """One campaign's run on a cluster. manifest: hash of the run folder's manifest, as its owner sees it."""

    token: str
    folder: str
    manifest: str
    version: str | None
    opener: Opener
    limits: Limits


@dataclass(frozen=True)
class Hello:
    """A worker introduces itself. refused: why it cannot take part; None if it can."""

    name: str
    refused: str | None


@dataclass(frozen=True)
class Answer:
    """What a worker answers. rows: of a unit that was finished. left: why it was not. refused: why this worker can do
    no unit at all."""

    rows: bytes | None = None
    left: str | None = None
    refused: str | None = None
    tally: SlotTally = field(default_factory=SlotTally)


@dataclass
class _Pool:
    """The children of one campaign in this process: as many as it runs units at a time."""

    job: Job
    free: list[WorkerSlot] = field(default_factory=list)
    all: list[WorkerSlot] = field(default_factory=list)
    stopped: bool = False

    def borrow(self) -> WorkerSlot:
        with _LOCK:
            if self.stopped:
                raise Stopped("stopped")
            if self.free:
                return self.free.pop()
            slot = WorkerSlot(self.job.opener, self.job.limits, idle_s=_IDLE_S)
            self.all.append(slot)
            return slot

    def put_back(self, slot: WorkerSlot) -> None:
        with _LOCK:
            self.free.append(slot)


_LOCK = threading.Lock()
_POOLS: dict[str, _Pool] = {}


def introduce(job: Job) -> Hello:
    """Says who this worker is, and whether it sees the campaign and computes its golden bits."""
    refused = _unfit(job)
    if refused is None:
        pool = _pool(job)
        slot = pool.borrow()
        try:
            slot.open()
        except (CannotOpen, OtherGolden) as failure:
            refused = str(failure)
        finally:
            pool.put_back(slot)
    return Hello(machine_name(), refused)


def work(job: Job, unit: Unit) -> Answer:
    """Raises what a handler raised and what is neither its engine's failure nor this worker's."""
    pool = _pool(job)
    slot = pool.borrow()
    try:
        _appears(Path(job.folder) / unit.plan, job.limits.share_s)
        return Answer(rows=slot.finish(unit), tally=slot.tally)
    except Left as left:
        return Answer(left=str(left), tally=slot.tally)
    except (CannotOpen, OtherGolden) as failure:
        return Answer(refused=str(failure), tally=slot.tally)
    finally:
        pool.put_back(slot)


def stop(token: str) -> None:
    """Ends the campaign's children at once. A unit that one of them is running raises Stopped."""
    with _LOCK:
        pool = _POOLS.get(token)
        if pool is None:
            return
        pool.stopped = True
        slots, idle = list(pool.all), list(pool.free)
    for slot in slots:
        slot.stop()
    for slot in idle:
        slot.close()


def _pool(job: Job) -> _Pool:
    with _LOCK:
        return _POOLS.setdefault(job.token, _Pool(job))


def _unfit(job: Job) -> str | None:
    if (version := installed_version("testbed")) != job.version:
        return f"testbed {version} is installed there, {job.version} here"
    manifest = Path(job.folder) / MANIFEST
    if not _appears(manifest, job.limits.share_s):
        return f"it does not see {job.folder}; the run folder must be on a file system that all workers share"
    end = time.monotonic() + job.limits.share_s
    while _hash(manifest) != job.manifest:
        if time.monotonic() > end:
            return f"it sees another campaign in {job.folder}; the run folder must be on a file system that all share"
        time.sleep(_POLL_S)
    return None


def _hash(file: Path) -> str | None:
    try:
        return sha256_file(file)
    except OSError:  # being replaced
        return None


def _appears(file: Path, within_s: float) -> bool:
    """A shared file system may show a new file late."""
    end = time.monotonic() + within_s
    while not file.exists():
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_S)
    return True
