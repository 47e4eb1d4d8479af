"""Killed or interrupted at any moment and started again, a campaign ends with the rows of one that was left alone."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.support.campaigns import TINY
from tests.support.victims import KILLED, Victims, assert_same_rows, leftovers


def test_killed_before_any_change_to_its_folder(victims: Victims, gated: Path, tiny_run: Path) -> None:
    """Dozens of changes are made to the folder; each start comes a few further than the one before."""
    dice = random.Random(0)
    ends = [victims.run(gated, operations=dice.randint(2, 14)) for _ in range(5)]
    assert ends.count(KILLED) >= 4
    assert victims.run(gated) == 0
    assert_same_rows(gated, tiny_run)
    assert leftovers(gated) == []


def test_killed_in_the_middle_of_a_frame(victims: Victims, gated: Path, tiny_run: Path) -> None:
    for write in (5, 1, 9):
        assert victims.run(gated, writes=write) == KILLED
        assert not (gated / "results.parquet").exists()
    assert victims.run(gated) == 0
    assert_same_rows(gated, tiny_run)
    stages = json.loads((gated / "manifest.json").read_text())["stages"]
    assert stages["execute"]["facts"]["rows_this_process"] < stages["execute"]["facts"]["rows"]


def test_killed_after_its_results_before_they_are_recorded(victims: Victims, gated: Path, tiny_run: Path) -> None:
    """Not one row is run again: the log goes only when the manifest knows of its successor."""
    assert victims.run(gated, manifests=4) == KILLED  # begun, gates, plan, execute
    assert (gated / "results.parquet").exists()
    assert (gated / "store").exists()
    assert victims.run(gated) == 0
    stages = json.loads((gated / "manifest.json").read_text())["stages"]
    assert stages["execute"]["facts"]["rows_this_process"] == 0
    assert_same_rows(gated, tiny_run)


def test_killed_at_random_moments_from_the_start(victims: Victims, tmp_path: Path, tiny_run: Path) -> None:
    dice = random.Random(1)
    for _ in range(5):
        assert victims.run(tmp_path / "run", kill_after=dice.uniform(0.05, 1.2)) in (KILLED, 0)
    assert victims.run(tmp_path / "run") == 0
    assert_same_rows(tmp_path / "run", tiny_run)
    assert leftovers(tmp_path / "run") == []


# Of one worker's units two may wait for the log and one be under way, and are kept. In this process two may wait.
@pytest.mark.parametrize(("options", "waiting"), [([], 3), (["--workers", "0"], 2)])
def test_ctrl_c_ends_cleanly_says_how_to_go_on_and_keeps_what_is_done(
    victims: Victims, gated: Path, tiny_run: Path, options: list[str], waiting: int
) -> None:
    argv = ["campaign", "run", str(TINY), "--run", str(gated), *options]
    assert victims.run(gated, *argv, interrupt=4) == 130
    (line,) = [line for line in victims.told().splitlines() if line.startswith("error:")]
    assert line == f"error: interrupted; every finished batch is kept; go on with: testbed {' '.join(argv)}"
    assert "Traceback" not in victims.told()
    assert victims.run(gated) == 0
    facts = json.loads((gated / "manifest.json").read_text())["stages"]["execute"]["facts"]
    units, part = divmod(facts["rows"] - facts["rows_this_process"], 64)
    assert 4 <= units <= 4 + waiting
    assert part == 0
    assert_same_rows(gated, tiny_run)


def test_a_finished_campaign_is_not_run_again(tiny_copy: Path, run_spec: Any, tiny_spec: Any) -> None:
    made = [file for file in tiny_copy.rglob("*") if file.is_file() and file.name not in ("manifest.json", ".lock")]
    before = [file.stat().st_mtime_ns for file in made]
    run_spec(tiny_spec, tiny_copy)
    assert [file.stat().st_mtime_ns for file in made] == before
