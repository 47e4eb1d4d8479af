"""A Dask scheduler with workers in processes of their own, and a campaign of the toy handler, for the tests of clusters."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from testbed.campaign.plan.unit import Unit
from testbed.campaign.work.contract import Limits, Opener, Report
from testbed.campaign.work.dask.pool import ClusterPool
from testbed.campaign.work.pool import LocalPool
from testbed.core.folder.runfolder import RunFolder
from tests.support.toy_handler import open_toy
from tests.support.toy_units import ToyUnits

SIZE = 4
LIMITS = Limits(floor_s=30, open_s=60, backoff_s=0.02, share_s=0.5, join_s=20)


class Cluster:
    """A scheduler, and the workers that a test starts."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder, self._file = folder, folder / "scheduler.json"
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        arguments = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show"]
        arguments += ["--scheduler-file", str(self._file), *options]
        self.scheduler = self._start("scheduler", *arguments)
        until(self._file.exists)

        def address() -> Any:
            with contextlib.suppress(ValueError, KeyError):
                return json.loads(self._file.read_text())["address"]

        until(lambda: address() is not None)
        self.address = str(address())

    def _start(self, what: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        with open(self._folder / f"{what}-{len(self.workers)}.log", "wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dask", what, *arguments],
                cwd=self._folder,
                env={**os.environ, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def start(self, name: str, threads: int = 1, **environment: str) -> subprocess.Popen[bytes]:
        """A worker without a nanny, so that a killed one stays away."""
        arguments = ["--no-nanny", "--no-dashboard", "--nthreads", str(threads), "--name", name]
        arguments += ["--scheduler-file", str(self._file), "--local-directory", str(self._folder)]
        self.workers[name] = self._start("worker", *arguments, **environment)
        return self.workers[name]

    def end(self, *names: str) -> None:
        for name in names or tuple(self.workers):
            self.workers[name].kill()
            self.workers.pop(name).wait()

    def close(self) -> None:
        self.end()
        self.scheduler.kill()
        self.scheduler.wait()


def until(true: Callable[[], Any], within_s: float = 60.0) -> None:
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.02)


class Campaign(ToyUnits):
    def __init__(self, folder: Path) -> None:
        self.folder = RunFolder.claimed(folder, "campaign", "toy", {}, [])
        folder.mkdir()
        self.folder.save()
        (folder / "plan").touch()
        self.kept: dict[int, pa.Table] = {}

    def opener(self, golden: str = "toy") -> Opener:
        return Opener(open_toy, (str(self.folder.path),), {"model.activation": golden})

    def units(self, n: int) -> list[Unit]:
        return [Unit(number=number, plan="plan", start=SIZE * number, stop=SIZE * (number + 1)) for number in range(n)]

    def run(self, address: str, n: int, **more: Any) -> Report:
        with ClusterPool(self.opener(more.pop("golden", "toy")), address, self.folder, LIMITS) as pool:
            return pool.run(self.units(n), self.keep, **more)

    def log(self, word: str) -> list[str]:
        file = self.folder / "log"
        return [line for line in file.read_text().splitlines() if word in line] if file.exists() else []

    def assert_rows_are_those_of_one_worker_here(self, n: int) -> None:
        mine, self.kept = self.kept, {}
        with LocalPool(self.opener(), 0, LIMITS) as pool:
            pool.run(self.units(n), self.keep)
        assert sorted(mine) == list(range(n))
        names = ["fault_id", "value"]
        for number, table in self.kept.items():
            assert mine[number].select(names).to_pylist() == table.select(names).to_pylist()
