"""What a campaign's folder says of it, whoever is or was at work there. Changes nothing, and disturbs nobody."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from itertools import count, takewhile
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa

from testbed.campaign.facts import ExecuteFacts, PlanFacts, check_facts
from testbed.campaign.files import RESULTS, STATUS, STORE, plan_file
from testbed.campaign.results.arrow import from_stream
from testbed.campaign.results.outcome_counts import COLUMNS, OutcomeCounts
from testbed.campaign.results.reader import PLAN_TABLE, RESULT_TABLE
from testbed.campaign.results.snapshot import RecordedSnapshot, widest_domain
from testbed.campaign.results.status_file import age_s, read_status
from testbed.campaign.results.store import ResultLog
from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.folder.manifest import MANIFEST
from testbed.core.folder.places import ASKED, COMPARISON, PROTECTED_CAMPAIGN
from testbed.core.folder.runfolder import LOCK, RunFolder
from testbed.core.folder.stage_facts import facts_of
from testbed.core.protected import STAGE

_STALE_S = 60.0


CampaignState = Literal["running", "finished", "interrupted"]


ProtectedPartName = Literal["plain", "protect", "protected", "comparison", "done"]
PROTECTED_PARTS: tuple[ProtectedPartName, ...] = get_args(ProtectedPartName)


@dataclass(frozen=True)
class ProtectedStatus:
    """How far a campaign with a [protect] table is. ``part``: the one that it is in: the plain campaign, protecting the model,
    the protected campaign, the comparison. ``campaign``: of the protected model, once it was begun."""

    part: ProtectedPartName
    campaign: StatusReport | None


@dataclass(frozen=True)
class StatusReport:
    """What a campaign's folder says of it. ``stages``: done so far. ``age_s``: since the snapshot was written.
    ``protected``: None without a [protect] table; with one, the state is that of all its parts."""

    folder: str
    name: str
    state: CampaignState
    stages: list[str]
    snapshot: RecordedSnapshot
    age_s: float | None
    protected: ProtectedStatus | None = None

    def to_json(self) -> dict[str, Any]:
        """One flat object, the snapshot's fields among the others."""
        protected: dict[str, Any] = {}
        if self.protected is not None:
            campaign = self.protected.campaign
            protected = {"part": self.protected.part, "campaign": None if campaign is None else campaign.to_json()}
        return {
            "folder": self.folder,
            "name": self.name,
            "state": self.state,
            "stages": self.stages,
            **asdict(self.snapshot),
            "age_s": self.age_s,
            **({"protected": protected} if protected else {}),
        }


def campaign_status(path: Path) -> StatusReport:
    """Raises UsageError where there is no campaign, StaleArtefact where its manifest is damaged; `status.json` and the rows
    may be in any state.

    Where nobody works, and where somebody has said nothing for a minute, outcomes are counted from the rows themselves.
    """
    folder = RunFolder.existing(path)
    if folder.manifest.get("kind") != "campaign":
        raise UsageError(f"{path} holds no campaign but a {folder.manifest.get('kind')}")
    check_facts(folder)
    stages = list(folder.manifest["stages"])
    running = is_locked(path)
    snapshot = read_status(path / STATUS)
    age = age_s(snapshot.updated)
    if not running:
        snapshot = replace(snapshot, stage=None, workers=0, faults_per_second=None, eta_s=None, steps=None)
    if not running or age is None or age > _STALE_S:
        snapshot = _counted(snapshot, folder, stages)
    protected = _protected(path, stages)
    is_done = "summary" in stages if protected is None else protected.part == "done"
    state: CampaignState = "finished" if is_done else "running" if running else "interrupted"
    return StatusReport(str(path), folder.manifest["name"], state, stages, snapshot, age, protected)


def _protected(path: Path, stages: list[str]) -> ProtectedStatus | None:
    if not (path / ASKED).is_file():
        return None
    if "summary" not in stages:
        return ProtectedStatus("plain", None)
    if STAGE not in stages:
        return ProtectedStatus("protect", None)
    inner = path / PROTECTED_CAMPAIGN
    campaign = campaign_status(inner) if (inner / MANIFEST).is_file() else None
    if campaign is None or campaign.state != "finished":
        return ProtectedStatus("protected", campaign)
    return ProtectedStatus("done" if COMPARISON in stages else "comparison", campaign)


def is_locked(path: Path) -> bool:
    """Whether a process works in this run folder."""
    try:
        import fcntl
    except ImportError:  # not POSIX
        return False
    try:
        handle = os.open(path / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # held for no longer than it takes to let it go
    except BlockingIOError:
        return True
    except OSError:
        return False
    else:
        fcntl.flock(handle, fcntl.LOCK_UN)
        return False
    finally:
        os.close(handle)


def _counted(snapshot: RecordedSnapshot, folder: RunFolder, stages: list[str]) -> RecordedSnapshot:
    """The snapshot with outcomes counted from the finished table, or from the log of a campaign that is not finished."""
    counts, faults, units_done = OutcomeCounts(), 0, snapshot.units_done
    try:
        if "execute" in stages:
            faults = int(sum(_add(counts, table) for table in RESULT_TABLE.row_groups(folder / RESULTS, COLUMNS)))
        else:
            log = ResultLog(folder / STORE)
            for frame in log.frames(log):
                faults += _add(counts, from_stream(log.stream(frame.units.start), COLUMNS))
            units_done = len(log)
    except (OSError, KeyError, pa.ArrowException, StaleArtefact):  # tidied up at this very moment, or damaged
        return snapshot
    snapshot = replace(snapshot, faults_done=faults, outcomes=dict(counts.outcomes), units_done=units_done)
    if (planned := _planned(folder)) is not None:
        snapshot = replace(snapshot, faults=planned)
    if folder.manifest.get("spec", {}).get("stop") is None:
        return replace(snapshot, widest=counts.widest)
    # rounds are not told from each other by their rows: what was said last stands, and in the end the verdict
    snapshot = replace(snapshot, units=None)
    if (executed := _executed(folder)) is not None and (stop := executed.stop) is not None:
        confidence = folder.manifest["spec"]["confidence"]
        return replace(snapshot, widest=widest_domain(stop.history[-1].domains, stop, confidence))
    return snapshot


def _planned(folder: RunFolder) -> int | None:
    """Faults in the plans that there are: of an adaptive campaign, those of the rounds so far."""
    if (executed := _executed(folder)) is not None:
        return executed.faults
    rounds = takewhile(Path.exists, (folder / plan_file(number) for number in count()))
    try:
        sizes = [PLAN_TABLE.rows(path) for path in rounds]
    except StaleArtefact:
        return None
    if sizes:
        return sum(sizes)
    return facts_of(folder, "plan", PlanFacts).faults if "plan" in folder.manifest["stages"] else None


def _executed(folder: RunFolder) -> ExecuteFacts | None:
    return facts_of(folder, "execute", ExecuteFacts) if "execute" in folder.manifest["stages"] else None


def _add(counts: OutcomeCounts, rows: pa.Table) -> int:
    """How many faults these are."""
    counts.add(rows)
    return int(pa.compute.count_distinct(rows.column("fault_id")).as_py())
