"""A real Dask scheduler, and workers in processes of their own that are killed, refused and replaced."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from toy_handler import ToyError, open_toy
from victims import assert_same_rows

from testbed.campaign import cluster_roster
from testbed.campaign.cluster import ClusterCrew
from testbed.campaign.cluster_worker import Hello, Job, introduce, stop, work
from testbed.campaign.crew import LocalCrew
from testbed.campaign.pipeline import run_campaign
from testbed.campaign.spec import CampaignSpec
from testbed.campaign.stream import from_stream
from testbed.campaign.work import Limits, Opener, Report, Unit
from testbed.campaign.workforce import Workforce
from testbed.core.errors import TestbedError, UsageError
from testbed.core.files import sha256_file
from testbed.core.provenance import installed_version
from testbed.core.runfolder import RunFolder

HERE = Path(__file__).parent
SIZE = 4
LIMITS = Limits(floor_s=30, open_s=60, backoff_s=0.02, share_s=0.5, join_s=20)


class Cluster:
    """A scheduler, and the workers that a test starts."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._file = folder, folder / "scheduler.json"
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        arguments = ["--port", "0", "--no-dashboard", "--no-show", "--scheduler-file", str(self._file)]
        self.scheduler = self._start("scheduler", *arguments)
        until(self._file.exists)

        def address() -> Any:
            with contextlib.suppress(ValueError, KeyError):
                return json.loads(self._file.read_text())["address"]

        until(lambda: address() is not None)
        self.address = str(address())

    def _start(self, what: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(HERE.parents[1]), str(HERE)])
        with open(self._folder / f"{what}-{len(self.workers)}.log", "wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dask", what, *arguments],
                cwd=self._folder,
                env={**os.environ, "PYTHONPATH": path, **environment},
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


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(shared: Cluster) -> Iterator[Cluster]:
    yield shared
    shared.end()


class Campaign:
    def __init__(self, folder: Path) -> None:
        self.folder = RunFolder.claimed(folder, "campaign", "toy", {}, [])
        folder.mkdir()
        self.folder.save()
        (folder / "plan").touch()
        self.kept: dict[int, pa.Table] = {}

    def order(self, orders: dict[int, str]) -> None:
        for fault, what in orders.items():
            (self.folder / str(fault)).write_text(what)

    def opener(self, golden: str = "toy") -> Opener:
        return Opener(open_toy, (str(self.folder.path),), {"model.activation": golden})

    def units(self, n: int) -> list[Unit]:
        return [Unit(number=number, plan="plan", start=SIZE * number, stop=SIZE * (number + 1)) for number in range(n)]

    def keep(self, unit: Unit, rows: bytes) -> None:
        assert unit.number not in self.kept
        self.kept[unit.number] = from_stream(rows)

    def run(self, address: str, n: int, **more: Any) -> Report:
        with ClusterCrew(self.opener(more.pop("golden", "toy")), address, self.folder, LIMITS) as crew:
            return crew.run(self.units(n), self.keep, **more)

    def log(self, word: str) -> list[str]:
        file = self.folder / "log"
        return [line for line in file.read_text().splitlines() if word in line] if file.exists() else []

    def assert_rows_are_those_of_one_worker_here(self, n: int) -> None:
        mine, self.kept = self.kept, {}
        with LocalCrew(self.opener(), 0, LIMITS) as crew:
            crew.run(self.units(n), self.keep)
        assert sorted(mine) == list(range(n))
        names = ["fault_id", "value"]
        for number, table in self.kept.items():
            assert mine[number].select(names).to_pylist() == table.select(names).to_pylist()


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    return Campaign(tmp_path / "run")


def test_units_are_spread_and_a_crash_in_a_child_never_kills_a_worker(cluster: Cluster, campaign: Campaign) -> None:
    workers = [cluster.start("one"), cluster.start("two", threads=2)]
    campaign.order({5: "abort always", 6: "slow always", 30: "engine 3"} | dict.fromkeys(range(40, 60), "slow always"))
    units = campaign.units(20)
    with ClusterCrew(campaign.opener(), cluster.address, campaign.folder, LIMITS) as crew:
        report = crew.run(units[:18], campaign.keep)
        (campaign.folder / "another-plan").touch()  # the next round
        campaign.folder.manifest["stages"]["plan-1"] = {"inputs": {}, "outputs": {}, "facts": {}}
        campaign.folder.save()
        assert crew.run(units[18:], campaign.keep).done == 2
    assert (report.done, report.blamed, report.left, report.refused) == (18, 1, {}, [])
    assert sorted(campaign.kept) == list(range(20))
    due = [row["fault_id"] for table in campaign.kept.values() for row in table.to_pylist() if row["due"]]
    assert due == [5]
    assert all(worker.poll() is None for worker in workers)
    assert 0 < report.efficiency < 1
    assert len({line.split()[0] for line in campaign.log("run")}) >= 3  # children of both workers


def test_a_killed_worker_takes_its_children_along_and_another_replaces_it(cluster: Cluster, campaign: Campaign) -> None:
    victim = cluster.start("victim")
    campaign.order(dict.fromkeys(range(SIZE * 6), "slow always"))
    children: list[psutil.Process] = []

    def tick(workers: int) -> None:
        if len(campaign.kept) >= 1 and not children:
            children.extend(psutil.Process(victim.pid).children(recursive=True))
            victim.kill()
            cluster.start("successor")

    report = campaign.run(cluster.address, 6, tick=tick)
    assert report.done == 6
    assert report.losses == 1
    assert children
    until(lambda: not any(map(alive, children)))
    campaign.assert_rows_are_those_of_one_worker_here(6)


def alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def test_a_worker_with_other_golden_bits_is_refused_by_name(cluster: Cluster, campaign: Campaign) -> None:
    (campaign.folder / "other").write_text("other bits")
    cluster.start("stranger", TOY_GOLDEN=str(campaign.folder / "other"))
    cluster.start("good")
    campaign.order(dict.fromkeys(range(SIZE * 6), "slow always"))
    report = campaign.run(cluster.address, 6)
    campaign.assert_rows_are_those_of_one_worker_here(6)
    (refused,) = report.refused
    assert refused.startswith("tcp://")
    assert "gives other golden bits than the one this campaign was begun on" in refused
    opened = {line.split()[0] for line in campaign.log("opened")}
    ran = {line.split()[0] for line in campaign.log("run")} - {str(os.getpid())}
    assert len(ran) < len(opened)


def test_a_worker_that_turns_out_unfit_later_gives_back_what_it_has(cluster: Cluster, campaign: Campaign) -> None:
    """Its child is lost, and the next one computes other bits."""
    cluster.start("turncoat", TOY_GOLDEN=str(campaign.folder / "other"))
    campaign.order({SIZE * 3: "kill 1"})

    def keep(unit: Unit, rows: bytes) -> None:
        if not campaign.kept:
            (campaign.folder / "other").write_text("other bits")
            cluster.start("good")
            until(lambda: len(crew._roster._present()) == 2)
        campaign.keep(unit, rows)

    with ClusterCrew(campaign.opener(), cluster.address, campaign.folder, LIMITS) as crew:
        report = crew.run(campaign.units(8), keep)
    campaign.assert_rows_are_those_of_one_worker_here(8)
    assert len(report.refused) == 1
    assert report.losses == 1


def test_where_all_are_refused_it_ends(cluster: Cluster, campaign: Campaign) -> None:
    cluster.start("good")
    with pytest.raises(TestbedError, match=r"^no worker at tcp://\S+ can take part: tcp://.*gives other golden bits"):
        campaign.run(cluster.address, 3, golden="another")
    assert not campaign.kept
    assert campaign.log("run") == []


def test_ctrl_c_ends_the_children_and_keeps_what_is_done(cluster: Cluster, campaign: Campaign) -> None:
    worker = cluster.start("good")
    campaign.order({SIZE * 2: "hang always"})

    def tick(workers: int) -> None:
        if len(campaign.kept) == 2:
            signal.raise_signal(signal.SIGINT)

    with ClusterCrew(campaign.opener(), cluster.address, campaign.folder, LIMITS) as crew:
        with pytest.raises(KeyboardInterrupt):
            crew.run(campaign.units(5), campaign.keep, tick)
        assert sorted(campaign.kept) == [0, 1]
        until(lambda: not any(map(alive, psutil.Process(worker.pid).children())))
    (campaign.folder / str(SIZE * 2)).unlink()
    report = Report()
    with ClusterCrew(campaign.opener(), cluster.address, campaign.folder, LIMITS) as crew:
        report = crew.run(campaign.units(5)[2:], campaign.keep)
    assert report.done == 3


def test_what_a_handler_raises_comes_back_as_itself(cluster: Cluster, campaign: Campaign) -> None:
    cluster.start("good")
    campaign.order({1: "toy always"})
    with pytest.raises(ToyError, match=r"^not on this machine; buy another$"):
        campaign.run(cluster.address, 3)


def test_nobody_there(cluster: Cluster, campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_roster, "_CONNECT_S", 0.5)
    with pytest.raises(TestbedError, match=r"^no Dask scheduler answers at tcp://127\.0\.0\.1:1; start one"):
        campaign.run("tcp://127.0.0.1:1", 3)
    with (
        ClusterCrew(campaign.opener(), cluster.address, campaign.folder, replace(LIMITS, join_s=1)) as crew,
        pytest.raises(
            TestbedError, match=r"^no worker has come to tcp://\S+ for 1 s; start some with `dask worker tcp"
        ),
    ):
        crew.run(campaign.units(3), campaign.keep)


def test_a_scheduler_that_goes_is_told(tmp_path: Path, campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_roster, "_CONNECT_S", 2.0)
    cluster = Cluster(tmp_path)
    cluster.start("good")
    campaign.order(dict.fromkeys(range(400), "slow always"))

    def tick(workers: int) -> None:
        if campaign.kept:
            cluster.scheduler.kill()

    try:
        with pytest.raises(TestbedError, match=r"^the Dask scheduler at tcp://\S+ is gone; finished units are kept"):
            campaign.run(cluster.address, 100, tick=tick)
    finally:
        cluster.close()
    assert campaign.kept


@pytest.mark.slow
def test_a_campaigns_rows_are_the_same_on_a_cluster_and_in_one_process(
    cluster: Cluster, gated: Path, tiny_run: Path, tiny_spec: CampaignSpec
) -> None:
    cluster.start("one")
    cluster.start("two")
    summary = run_campaign(tiny_spec, gated, workforce=Workforce(scheduler=cluster.address))
    assert_same_rows(gated, tiny_run)
    assert summary["failures"] == {"crashes": 0, "hangs": 0, "losses": 0, "blamed": 0, "refused": []}
    assert 0 < summary["engine_seconds"] < summary["worker_seconds"]


# ---- what a worker checks, in this process


def job(campaign: Campaign, **other: Any) -> Job:
    manifest = sha256_file(campaign.folder / "manifest.json")
    version = installed_version("testbed")
    known = Job("token", str(campaign.folder.path), manifest, version, campaign.opener(), replace(LIMITS, share_s=0.1))
    return replace(known, **other)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"folder": "/nowhere/at/all"}, r"^it does not see /nowhere/at/all; the run folder must be on a file system"),
        ({"manifest": "0" * 64}, r"^it sees another campaign in .*; the run folder must be on a file system"),
        ({"version": "0.0.0"}, r"^testbed .* is installed there, 0\.0\.0 here$"),
    ],
)
def test_a_worker_that_does_not_see_the_campaign_takes_no_part(
    campaign: Campaign, other: dict[str, str], why: str
) -> None:
    hello = introduce(job(campaign, **other))
    assert hello.refused is not None
    assert re.search(why, hello.refused)
    assert campaign.log("opened") == []


def test_a_pool_is_stopped_for_good(campaign: Campaign) -> None:
    this = job(campaign, token="another")
    before = psutil.Process().children()
    assert introduce(this) == Hello(introduce(this).name, None)
    assert work(this, campaign.units(1)[0]).rows is not None
    children = [child for child in psutil.Process().children() if child not in before]
    assert len(children) == 1
    stop("another")
    stop("never seen")
    until(lambda: not any(map(alive, children)))
    with pytest.raises(Exception, match="stopped"):
        work(this, campaign.units(1)[0])


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    for name in ("testbed.campaign.cluster", "testbed.campaign.cluster_roster"):
        monkeypatch.delitem(sys.modules, name)
    opener = Opener(print, (), {})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"^--scheduler needs Dask: pip install 'testbed\[cluster\]'$"):
        Workforce(scheduler="tcp://127.0.0.1:1").crew(opener, RunFolder(tmp_path))
