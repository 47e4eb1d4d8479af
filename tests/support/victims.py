"""Campaigns that are killed: `victim.py` runs them, this starts and ends them, and compares what they leave."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.campaigns import TINY

KILLED = -signal.SIGKILL


class Victims:
    """Campaigns in child processes; `victim.py` forks them, so that each does not load every library again."""

    def __init__(self, log: Path) -> None:
        command = [sys.executable, "-m", "tests.support.victim"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._log = log

    def run(self, run: Path, *argv: str, kill_after: float | None = None, **after: int) -> int:
        """Exit status of a campaign in ``run`` that dies as told, at the latest ``kill_after`` seconds from now."""
        pid = self.start(run, *argv, **after)
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.kill(pid, signal.SIGKILL)
        return self.status()

    def start(self, run: Path, *argv: str, workers: int = 0, **after: int) -> int:
        """Process id of a campaign that has begun, or gone on, in ``run``. `status` must follow."""
        request: dict[str, Any] = {"run": str(run), "spec": str(TINY), "log": str(self._log)}
        request |= {"after": after, "workers": workers} | ({"argv": argv} if argv else {})
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def status(self) -> int:
        """Waits for the end of what was started."""
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def alive(self, pid: int) -> bool:
        return any(child.pid == pid for child in self.children())

    def children(self) -> list[psutil.Process]:
        """Campaigns that run now, and what they left running when they were killed."""
        found = []
        for child in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
        return found

    def kill_one(self, pid: int, dice: random.Random) -> bool:
        """Kills the campaign, or one of its workers, as the dice say; False when it has ended by itself."""
        try:
            campaign = psutil.Process(pid)
            dice.choice([campaign, campaign, *campaign.children()]).kill()
        except psutil.NoSuchProcess:
            return False
        return True

    def told(self) -> str:
        return self._log.read_text()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()


def bits(column: pa.ChunkedArray) -> tuple[list[bool], Any]:
    """Which are null, and the others' bits."""
    array = column.combine_chunks()
    if pa.types.is_list(array.type):
        return array.is_null().to_pylist(), bits(pa.chunked_array([array.flatten()]))
    if pa.types.is_dictionary(array.type):
        return array.is_null().to_pylist(), array.cast(pa.string()).to_pylist()
    return array.is_null().to_pylist(), array.drop_null().to_numpy(zero_copy_only=False).tobytes()


def assert_same_rows(run: Path, other: Path) -> None:
    assert_same_tables(*(pq.read_table(folder / "results.parquet") for folder in (run, other)))


def assert_same_tables(mine: pa.Table, theirs: pa.Table) -> None:
    """The same rows, bit for bit."""
    assert mine.schema == theirs.schema
    for name in mine.column_names:
        assert bits(mine[name]) == bits(theirs[name]), name


def leftovers(run: Path) -> list[str]:
    return [file.name for file in run.rglob("*") if file.name == "store" or ".unfinished" in file.name]
