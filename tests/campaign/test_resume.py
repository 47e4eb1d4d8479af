"""Killed or interrupted at any moment and started again, a campaign ends with the rows of one that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

HERE = Path(__file__).parent
KILLED = -signal.SIGKILL


class Victims:
    """Campaigns in child processes; `victim.py` forks them, so that each does not load every library again."""

    def __init__(self, log: Path) -> None:
        command = [sys.executable, str(HERE / "victim.py")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._log = log

    def run(self, run: Path, *argv: str, kill_after: float | None = None, **after: int) -> int:
        """Exit status of a campaign in ``run`` that dies as told, at the latest ``kill_after`` seconds from now."""
        request: dict[str, Any] = {"run": str(run), "spec": str(HERE / "tiny.toml"), "log": str(self._log)}
        request |= {"after": after} | ({"argv": argv} if argv else {})
        pipe_in, pipe_out = self._process.stdin, self._process.stdout
        assert pipe_in is not None
        assert pipe_out is not None
        print(json.dumps(request), file=pipe_in, flush=True)
        pid = int(pipe_out.readline())
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(pid, signal.SIGKILL)  # a zombie at worst: its parent waits until we have read its status
        return int(pipe_out.readline())

    def told(self) -> str:
        return self._log.read_text()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture(scope="module")
def victims(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victims]:
    found = Victims(tmp_path_factory.mktemp("victims") / "log")
    yield found
    found.close()


def bits(column: pa.ChunkedArray) -> tuple[list[bool], Any]:
    """Which are null, and the others' bits."""
    array = column.combine_chunks()
    if pa.types.is_list(array.type):
        return array.is_null().to_pylist(), bits(pa.chunked_array([array.flatten()]))
    if pa.types.is_dictionary(array.type):
        return array.is_null().to_pylist(), array.cast(pa.string()).to_pylist()
    return array.is_null().to_pylist(), array.drop_null().to_numpy(zero_copy_only=False).tobytes()


def assert_same_rows(run: Path, other: Path) -> None:
    mine, theirs = (pq.read_table(folder / "results.parquet") for folder in (run, other))
    assert mine.schema == theirs.schema
    for name in mine.column_names:
        assert bits(mine[name]) == bits(theirs[name]), name


def leftovers(run: Path) -> list[str]:
    return [file.name for file in run.rglob("*") if file.name == "store" or ".unfinished" in file.name]


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


def test_ctrl_c_ends_cleanly_says_how_to_go_on_and_keeps_what_is_done(
    victims: Victims, gated: Path, tiny_run: Path
) -> None:
    argv = ["campaign", "run", str(HERE / "tiny.toml"), "--run", str(gated)]
    assert victims.run(gated, *argv, interrupt=4) == 130
    (line,) = [line for line in victims.told().splitlines() if line.startswith("error:")]
    assert line == f"error: interrupted; every finished batch is kept; go on with: testbed {' '.join(argv)}"
    assert "Traceback" not in victims.told()
    assert victims.run(gated) == 0
    facts = json.loads((gated / "manifest.json").read_text())["stages"]["execute"]["facts"]
    assert facts["rows"] - facts["rows_this_process"] == 4 * 64
    assert_same_rows(gated, tiny_run)


def test_a_finished_campaign_is_not_run_again(tiny_copy: Path, run_spec: Any, tiny_spec: Any) -> None:
    made = [file for file in tiny_copy.rglob("*") if file.is_file() and file.name not in ("manifest.json", ".lock")]
    before = [file.stat().st_mtime_ns for file in made]
    run_spec(tiny_spec, tiny_copy)
    assert [file.stat().st_mtime_ns for file in made] == before
