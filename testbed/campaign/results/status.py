"""What a campaign's folder says of it, whoever is or was at work there. Changes nothing, and disturbs nobody."""

from __future__ import annotations

import os
from dataclasses import asdict
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import pyarrow as pa

from testbed.campaign.facts import ExecuteFacts, PlanFacts, check_facts, facts_of
from testbed.campaign.files import RESULTS, STORE, plan_file
from testbed.campaign.results.arrow import from_stream
from testbed.campaign.results.progress import COLUMNS, STATUS, OutcomeCounts, widest_domain
from testbed.campaign.results.reader import PLAN_TABLE, RESULT_TABLE
from testbed.campaign.results.status_file import age_s, read_status
from testbed.campaign.results.store import ResultLog
from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.folder.runfolder import LOCK, RunFolder

_STALE_S = 60.0


def campaign_status(path: Path) -> dict[str, Any]:
    """Keys: folder, name, state (running, finished, interrupted), stages (done so far), and those of `Snapshot`, null
    where unknown; age_s since it was updated. Raises UsageError where there is no campaign, StaleArtefact where its
    manifest is damaged; `status.json` and the rows may be in any state.

    Where nobody works, and where somebody has said nothing for a minute, outcomes are counted from the rows themselves.
    """
    folder = RunFolder.existing(path)
    if folder.manifest.get("kind") != "campaign":
        raise UsageError(f"{path} holds no campaign but a {folder.manifest.get('kind')}")
    check_facts(folder)
    stages = list(folder.manifest["stages"])
    running = is_locked(path)
    snapshot = read_status(path / STATUS)
    age = age_s(snapshot["updated"])
    finished = "summary" in stages
    status = {
        "folder": str(path),
        "name": folder.manifest["name"],
        "state": "finished" if finished else "running" if running else "interrupted",
        "stages": stages,
        **snapshot,
        "age_s": age,
    }
    if not running:
        status |= {"stage": None, "workers": 0, "faults_per_second": None, "eta_s": None, "steps": None}
    if not running or age is None or age > _STALE_S:
        status |= _from_rows(folder, stages)
    return status


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


def _from_rows(folder: RunFolder, stages: list[str]) -> dict[str, Any]:
    """Outcomes counted from the finished table, or from the log of a campaign that is not finished."""
    counts, done = OutcomeCounts(), {}
    faults = 0
    try:
        if "execute" in stages:
            faults = int(sum(_add(counts, table) for table in RESULT_TABLE.row_groups(folder / RESULTS, COLUMNS)))
        else:
            log = ResultLog(folder / STORE)
            for frame in log.frames(log):
                faults += _add(counts, from_stream(log.stream(frame.units.start), COLUMNS))
            done = {"units_done": len(log)}
    except (OSError, KeyError, pa.ArrowException, StaleArtefact):  # tidied up at this very moment, or damaged
        return {}
    fields: dict[str, Any] = {"faults_done": faults, "outcomes": dict(counts.outcomes), **done}
    if (planned := _planned(folder)) is not None:
        fields["faults"] = planned
    if folder.manifest.get("spec", {}).get("stop") is None:
        widest = counts.widest
        fields["widest"] = None if widest is None else asdict(widest)
    else:  # rounds are not told from each other by their rows: what was said last stands, and in the end the verdict
        fields["units"] = None
        if (executed := _executed(folder)) is not None and (stop := executed.stop) is not None:
            confidence = folder.manifest["spec"]["confidence"]
            fields["widest"] = asdict(widest_domain(stop.history[-1].domains, stop, confidence))
    return fields


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
