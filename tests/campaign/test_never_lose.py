"""A campaign on two workers is killed again and again, it or its workers, and ends with the rows of one left alone."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from testbed.campaign import pipeline
from testbed.campaign.pipeline import run_campaign
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.campaign.work import pool as crew
from testbed.campaign.work.contract import Limits
from testbed.campaign.work.worker_setup import WorkerSetup
from tests.support.sabotage import CRASHES, HANGS, open_sabotaged
from tests.support.victims import KILLED, Victims, assert_same_rows, assert_same_tables, leftovers


def kill_at_random(victims: Victims, begun: Path, folder: Path, whole: Path, kills: int, seed: int) -> None:
    """Each campaign begins as a copy of ``begun``, goes on after every kill, and must end like ``whole``."""
    dice = random.Random(seed)
    done = number = 0
    while done < kills or number == 0:
        run = folder / str(number)
        if not run.exists():
            shutil.copytree(begun, run)
        pid = victims.start(run, workers=2)
        while done < kills and victims.alive(pid):
            wait(victims, pid, run / "store", dice)
            done += victims.kill_one(pid, dice)
        status = victims.status()
        assert status in (KILLED, 0), victims.told()
        if status == 0:
            assert_finished(run, whole)
            number += 1
    assert victims.children() == []


def wait(victims: Victims, pid: int, store: Path, dice: random.Random) -> None:
    """For a moment while it starts, or until it has stored some more and for a moment then, whatever it does by now."""
    if dice.random() < 0.7:
        size = stored(store) + dice.randrange(1, 80_000)
        end = time.monotonic() + 60
        while stored(store) < size and victims.alive(pid) and time.monotonic() < end:
            time.sleep(0.01)
    time.sleep(dice.uniform(0, 0.5))


def stored(store: Path) -> int:
    """Bytes in its log; 0 once it was compacted."""
    with contextlib.suppress(FileNotFoundError):
        return sum(file.stat().st_size for file in store.glob("segment-*.log"))
    return 0


def assert_finished(run: Path, whole: Path) -> None:
    assert_same_rows(run, whole)
    assert leftovers(run) == []
    facts = json.loads((run / "manifest.json").read_text())["stages"]["execute"]["facts"]
    assert (facts["blamed"], facts["hangs"]) == (0, 0)  # a killed worker is nobody's fault


@pytest.mark.slow
def test_fifty_kills(victims: Victims, gated: Path, tmp_path: Path, tiny_run: Path) -> None:
    kill_at_random(victims, gated, tmp_path / "runs", tiny_run, kills=50, seed=0)


def test_some_kills(victims: Victims, gated: Path, tmp_path: Path, tiny_run: Path) -> None:
    kill_at_random(victims, gated, tmp_path / "runs", tiny_run, kills=5, seed=1)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        *(
            pytest.param(getattr(signal, name), marks=pytest.mark.slow)
            for name in ("SIGQUIT", "SIGHUP", "SIGABRT", "SIGUSR1", "SIGXCPU", "SIGSEGV")
        ),
    ],
)
def test_a_signal_that_ends_it_leaves_nobody_at_work_and_it_goes_on(
    victims: Victims, gated: Path, tiny_run: Path, number: signal.Signals
) -> None:
    pid = victims.start(gated, workers=2)
    end = time.monotonic() + 60
    while not stored(gated / "store") and victims.alive(pid) and time.monotonic() < end:
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    assert victims.status() in (-number, 128 + number, 0), victims.told()  # 0: it was done before
    until = time.monotonic() + 20
    while victims.children() and time.monotonic() < until:
        time.sleep(0.05)
    assert victims.children() == []
    assert victims.run(gated) == 0
    assert_finished(gated, tiny_run)


@pytest.mark.slow
def test_faults_that_crash_or_hang_the_engine_are_due_and_all_others_have_their_rows(
    gated: Path, tiny_run: Path, tiny_spec: CampaignSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "open_worker", open_sabotaged)
    monkeypatch.setattr(crew, "Limits", functools.partial(Limits, floor_s=5.0))
    summary = run_campaign(tiny_spec, gated, worker_setup=WorkerSetup(2))
    assert summary.failures.blamed == 3
    assert summary.failures.losses == 0
    mine, theirs = (pq.read_table(run / "results.parquet") for run in (gated, tiny_run))
    bad = pc.is_in(mine.column("fault_id"), value_set=pa.array([*CRASHES, *HANGS]))
    blamed = mine.filter(bad).to_pylist()
    assert {row["fault_id"]: row["due"] for row in blamed} == {
        **dict.fromkeys(CRASHES, "crash"),
        **dict.fromkeys(HANGS, "hang"),
    }
    assert {row["outcome"] for row in blamed} == {"due"}
    assert_same_tables(mine.filter(pc.invert(bad)), theirs.filter(pc.invert(bad)))  # not one of them is marked either
    for name in ("fault_id", "image_id"):
        assert mine.column(name).to_pylist() == theirs.column(name).to_pylist()
