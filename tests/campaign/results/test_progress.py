"""What is told of a campaign under way, and what its folder still tells when nobody is at work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from testbed.analysis.stats import proportion_interval
from testbed.api.progress_text import lines
from testbed.campaign.results import progress as progress_module
from testbed.campaign.results.arrow import to_stream
from testbed.campaign.results.outcome_counts import OutcomeCounts
from testbed.campaign.results.progress import FinishedUnits, Progress
from testbed.campaign.results.snapshot import Snapshot, Widest
from testbed.campaign.results.status import campaign_status, is_locked
from testbed.campaign.results.store import ResultStore
from testbed.core.errors import TestbedError, UsageError
from testbed.core.folder.files import sha256_json
from testbed.core.folder.runfolder import LOCK, RunFolder


def rows(faults: list[int], block: int | None, outcomes: list[str], where: str = "activation") -> pa.Table:
    n = len(faults)
    return pa.table(
        {
            "fault_id": pa.array(faults, pa.int64()),
            "target": pa.array(["model"] * n).dictionary_encode(),
            "where": pa.array([where] * n).dictionary_encode(),
            "block": pa.array([block] * n, pa.int16()),
            "outcome": pa.array(outcomes).dictionary_encode(),
            "other": pa.array([0.0] * n),
        }
    )


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress_module.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_outcomes_and_the_widest_interval() -> None:
    counts = OutcomeCounts()
    assert counts.widest is None
    counts.add(rows([0, 1, 2, 3], 0, ["masked", "sdc1", "sdc1", "due"]))
    counts.add(rows([4, 5], 0, ["masked", "identical"]))
    counts.add(rows([6, 7], None, ["masked", "sdc1"]))
    assert counts.outcomes == {"masked": 3, "sdc1": 3, "due": 1, "identical": 1}
    low, high = proportion_interval(1, 2)
    assert counts.widest is not None
    assert counts.widest.group == "model activation, outside the blocks"
    assert counts.widest.faults == 2
    assert counts.widest.halfwidth == pytest.approx((high - low) / 2, abs=1e-6)


def test_all_images_of_a_fault_count_as_one() -> None:
    """A weight fault over four images is not four times as much knowledge."""
    counts = OutcomeCounts()
    counts.add(rows([0] * 4 + [1] * 4, 3, ["sdc1", "masked", "masked", "masked"] + ["masked"] * 4, "weight"))
    low, high = proportion_interval(0.25, 2)
    assert counts.widest is not None
    assert (counts.widest.group, counts.widest.faults) == ("model weight, block 3", 2)
    assert counts.widest.halfwidth == pytest.approx((high - low) / 2, abs=1e-6)


def test_a_group_in_which_every_fault_is_critical_is_fine() -> None:
    counts = OutcomeCounts()
    for fault in range(30):
        counts.add(rows([fault] * 3, 0, ["sdc1"] * 3))
    assert counts.widest is not None
    assert counts.widest.faults == 30


def test_what_was_finished_and_dropped_counts_no_more(tmp_path: Path) -> None:
    progress = Progress(tmp_path)
    progress.begin("execute", units=2, faults=4)
    progress.finished(FinishedUnits(1, 2, UNIT[0]))
    before = progress.snapshot()
    progress.finished(FinishedUnits(1, 2, UNIT[1]))
    progress.dropped(FinishedUnits(1, 2, UNIT[1]))
    after = progress.snapshot()
    assert (after.units_done, after.faults_done, after.widest) == (before.units_done, before.faults_done, before.widest)
    assert after.outcomes == before.outcomes


def test_rate_and_time_to_go_are_of_the_last_minute_and_of_this_process(tmp_path: Path, clock: Clock) -> None:
    seen: list[Snapshot] = []
    progress = Progress(tmp_path, seen.append)
    before = to_stream(rows([0, 1], 0, ["masked", "sdc1"]))
    progress.begin("execute", units=100, faults=200, done=[FinishedUnits(1, 2, before)] * 10, workers=3)
    assert seen[-1].faults_done == 20
    assert seen[-1].faults_per_second is None
    assert seen[-1].eta_s is None
    for _ in range(10):
        clock.now += 1
        progress.finished(FinishedUnits(1, 2, before))
    assert (seen[-1].units_done, seen[-1].faults_done, seen[-1].workers) == (20, 40, 3)
    assert seen[-1].faults_per_second == pytest.approx(2.0)
    assert seen[-1].eta_s == pytest.approx(80.0)
    for _ in range(20):
        clock.now += 10
        progress.finished(FinishedUnits(1, 2, before))
    assert seen[-1].faults_per_second == pytest.approx(0.2)
    assert seen[-1].outcomes == {"masked": 40, "sdc1": 40}


def test_it_is_told_at_most_once_a_second_and_at_the_end(tmp_path: Path, clock: Clock) -> None:
    seen: list[Snapshot] = []
    progress = Progress(tmp_path, seen.append)
    progress.begin("execute", units=100, faults=100)
    unit = to_stream(rows([0], 0, ["masked"]))
    for _ in range(100):
        clock.now += 0.05
        progress.finished(FinishedUnits(1, 1, unit))
    assert 4 <= len(seen) - 1 <= 5
    progress.end()
    assert seen[-1].faults_done == 100
    told = json.loads((tmp_path / "status.json").read_text())
    assert (told["stage"], told["faults_done"], told["pid"]) == ("execute", 100, os.getpid())
    clock.now += 5
    progress.tick(7)
    assert json.loads((tmp_path / "status.json").read_text())["workers"] == 7
    assert sorted(file.name for file in tmp_path.iterdir()) == ["status.json"]


def test_a_full_disk_does_not_end_it_for_the_sake_of_a_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    def full(path: Path, value: Any) -> None:
        raise TestbedError("cannot write: the disk is full")

    monkeypatch.setattr(progress_module, "write_json", full)
    progress = Progress(tmp_path)
    progress.begin("execute", 1, 1)
    progress.finished(FinishedUnits(1, 1, to_stream(rows([0], 0, ["masked"]))))
    progress.end()


# ---- from another shell


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Another process that holds the folder's lock."""
    program = f"""
import sys
from filelock import FileLock
with FileLock({str(folder / LOCK)!r}):
    print("held", flush=True)
    sys.stdin.read()
"""
    worker = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    assert worker.stdin is not None
    assert worker.stdout.readline() == "held\n"
    try:
        yield
    finally:
        worker.stdin.close()
        worker.wait()
        worker.stdout.close()


def test_the_lock_is_seen_and_left_alone(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    with at_work(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    with FileLock(tmp_path / LOCK, timeout=0):  # looking did not keep it
        assert is_locked(tmp_path)


def started(folder: Path, stages: dict[str, Any]) -> RunFolder:
    run = RunFolder.claimed(folder, "campaign", "toy", {"seed": 1}, ["testbed"])
    record: dict[str, Any] = {"inputs": {}, "outputs": {}}
    run.manifest["stages"] = {name: record | {"facts": facts} for name, facts in stages.items()}
    folder.mkdir(exist_ok=True)
    run.save()
    return run


UNIT = [to_stream(rows([2 * unit, 2 * unit + 1], unit % 2, ["masked", "sdc1"])) for unit in range(5)]


def test_a_running_one_is_as_it_last_said(tmp_path: Path) -> None:
    started(tmp_path / "run", {"plan": {"faults": 10}})
    progress = Progress(tmp_path / "run")
    progress.begin("execute", units=5, faults=10, workers=2)
    progress.finished(FinishedUnits(1, 2, UNIT[0]))
    progress.end()
    with at_work(tmp_path / "run"):
        status = campaign_status(tmp_path / "run")
    assert (status.state, status.snapshot.stage, status.snapshot.workers) == ("running", "execute", 2)
    assert (status.snapshot.units, status.snapshot.units_done, status.snapshot.faults, status.snapshot.faults_done) == (
        5,
        1,
        10,
        2,
    )
    assert status.snapshot.outcomes == {"masked": 1, "sdc1": 1}
    assert status.snapshot.faults_per_second is not None
    assert status.snapshot.faults_per_second > 0
    assert status.age_s is not None
    assert status.age_s < 60


@pytest.mark.parametrize("stale", [True, False])
def test_a_killed_one_is_counted_from_its_log(tmp_path: Path, stale: bool) -> None:
    """Its last word may be older than its last row, or missing."""
    folder = tmp_path / "run"
    started(folder, {"plan": {"faults": 10}})
    if stale:
        progress = Progress(folder)
        progress.begin("execute", units=5, faults=10, workers=2)
    with ResultStore(folder / "store", "id") as store:
        for number in (0, 3, 1):
            store.append(number, UNIT[number])
    (segment,) = (folder / "store").glob("segment-*")
    with open(segment, "ab") as file:
        file.write(b"TBF1 and then it was killed")
    before = segment.read_bytes()
    status = campaign_status(folder)
    assert (status.state, status.snapshot.stage) == ("interrupted", None)
    assert (status.snapshot.faults_done, status.snapshot.faults, status.snapshot.units_done) == (6, 10, 3)
    assert status.snapshot.units == (5 if stale else None)
    assert status.snapshot.outcomes == {"masked": 3, "sdc1": 3}
    assert status.snapshot.widest is not None
    assert status.snapshot.widest.group == "model activation, block 0"
    assert status.snapshot.workers == 0
    assert segment.read_bytes() == before


def test_one_that_runs_and_has_said_nothing_for_long_is_counted_too(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    started(folder, {"plan": {"faults": 10}})
    with ResultStore(folder / "store", "id") as store, at_work(folder):
        store.append(4, UNIT[4])
        status = campaign_status(folder)
        assert (status.state, status.snapshot.faults_done) == ("running", 2)
        (folder / "status.json").write_text('{"updated": "2001-01-01T00:00:00+00:00", "faults_done": 0, "units": 5}')
        status = campaign_status(folder)
        assert (status.snapshot.faults_done, status.snapshot.units) == (2, 5)
        (folder / "status.json").write_text("[1, 2")
        assert campaign_status(folder).snapshot.faults_done == 2


def test_a_finished_one_is_counted_from_its_table(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    counts = dict.fromkeys(("rows", "faults", "rows_this_process", "crashes", "hangs", "losses", "blamed"), 4)
    seconds = dict.fromkeys(("wall_seconds", "engine_seconds", "worker_seconds"), 1.0)
    facts = {**counts, **seconds, "refused": []}
    started(folder, {"plan": {"faults": 4}, "execute": facts, "summary": {}})
    table = pa.concat_tables([rows([0, 1], 0, ["masked", "sdc1"]), rows([2, 3], 1, ["due", "sdc1"])])
    pq.write_table(table.unify_dictionaries(), folder / "results.parquet", row_group_size=2)
    status = campaign_status(folder)
    assert (status.state, status.snapshot.faults_done, status.snapshot.faults) == ("finished", 4, 4)
    assert status.snapshot.outcomes == {"masked": 1, "sdc1": 2, "due": 1}


def test_a_finished_adaptive_one_has_all_rounds_and_the_width_of_the_verdict(
    adaptive_run: Path, tmp_path: Path
) -> None:
    """Also where its last word, which was about the last round, is still there."""
    summary = json.loads((adaptive_run / "summary.json").read_text())
    domains = summary["stop"]["history"][-1]["domains"]
    assert len(summary["stop"]["history"]) > 1
    for kept in (True, False):
        copy = Path(shutil.copytree(adaptive_run, tmp_path / str(kept)))
        if not kept:
            (copy / "status.json").unlink()
        status = campaign_status(copy)
        assert status.snapshot.faults == status.snapshot.faults_done == summary["faults"]
        widest = status.snapshot.widest
        assert widest is not None
        assert widest.halfwidth == pytest.approx(max(one["half_width"] for one in domains), abs=1e-6)
        assert (widest.margin, widest.confidence) == (0.08, 0.95)
        work, _, interval, _ = lines(status.snapshot)
        assert work.endswith(f"{summary['faults']:,} of {summary['faults']:,} faults (100 %)")
        assert interval.startswith(f"widest interval ±{100 * widest.halfwidth:.2g} points at 95 %, asked for ±8")
    assert sum(one["faults"] for one in domains) == summary["faults"]


def test_a_killed_adaptive_one_has_the_faults_of_the_rounds_that_were_planned(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = started(folder, {"plan": {"faults": 4}})
    run.manifest["spec"]["stop"] = {"margin": 0.1}
    run.manifest["identity"] = sha256_json(run.manifest["spec"])
    run.save()
    (folder / "plan").mkdir()
    for number, faults in enumerate((4, 6)):
        pq.write_table(pa.table({"fault_id": range(faults)}), folder / f"plan/round-{number:03d}.parquet")
    widest = Widest("model activation, flip, block 1", 4, 0.2, 0.95, 0.1)
    progress = Progress(folder)
    progress.begin("execute, round 1", units=3, faults=6, rounds=True, widest=widest)
    with ResultStore(folder / "store", "id") as store:
        for number in range(3):
            store.append(number, UNIT[number])
    status = campaign_status(folder)
    assert (status.snapshot.faults_done, status.snapshot.faults, status.snapshot.units) == (6, 10, None)
    assert status.snapshot.widest == widest


def test_of_the_first_round_of_an_adaptive_one_no_width_is_told(tmp_path: Path, clock: Clock) -> None:
    seen: list[Snapshot] = []
    progress = Progress(tmp_path, seen.append)
    progress.begin("execute", units=5, faults=10, rounds=True)
    progress.finished(FinishedUnits(1, 2, UNIT[0]))
    assert seen[-1].widest is None
    last = Widest("model activation, flip", 10, 0.05, 0.9, 0.1)
    progress.end(last)
    assert seen[-1].widest == last


def test_what_is_no_campaign_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        campaign_status(tmp_path)
    RunFolder.claimed(tmp_path / "run", "golden", "g", {}, [])
    folder = RunFolder.claimed(tmp_path / "run", "golden", "g", {}, [])
    (tmp_path / "run").mkdir()
    folder.save()
    with pytest.raises(UsageError, match="holds no campaign but a golden"):
        campaign_status(tmp_path / "run")


def test_a_real_campaigns_rows_have_what_is_counted(tiny_copy: Path) -> None:
    table = pq.read_table(tiny_copy / "results.parquet")
    before = {file: file.stat().st_mtime_ns for file in tiny_copy.rglob("*")}
    status = campaign_status(tiny_copy)
    assert status.state == "finished"
    assert sum(status.snapshot.outcomes.values()) == table.num_rows
    assert status.snapshot.faults_done == len(table.column("fault_id").unique())
    assert {file: file.stat().st_mtime_ns for file in tiny_copy.rglob("*")} == before
