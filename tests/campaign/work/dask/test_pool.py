"""A real Dask scheduler, and workers in processes of their own that are killed, refused and replaced."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from testbed.campaign import pipeline
from testbed.campaign.pipeline import run_campaign
from testbed.campaign.plan.unit import Unit
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.campaign.work.contract import Opener, Report
from testbed.campaign.work.dask import members as cluster_roster
from testbed.campaign.work.dask.pool import ClusterPool
from testbed.campaign.work.dask.worker import Hello, Job, introduce, stop, work
from testbed.campaign.work.worker_setup import WorkerSetup
from testbed.core.errors import TestbedError, UsageError
from testbed.core.folder.files import sha256_file
from testbed.core.folder.provenance import installed_version
from testbed.core.folder.runfolder import RunFolder
from tests.support.clusters import LIMITS, SIZE, Campaign, Cluster, until
from tests.support.forger import open_forger
from tests.support.toy_handler import ToyError
from tests.support.victims import assert_same_rows


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(shared: Cluster) -> Iterator[Cluster]:
    yield shared
    shared.end()


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    return Campaign(tmp_path / "run")


def test_units_are_spread_and_a_crash_in_a_child_never_kills_a_worker(cluster: Cluster, campaign: Campaign) -> None:
    workers = [cluster.start("one"), cluster.start("two", threads=2)]
    campaign.order({5: "abort always", 6: "slow always", 30: "engine 3"} | dict.fromkeys(range(40, 60), "slow always"))
    units = campaign.units(20)
    with ClusterPool(campaign.opener(), cluster.address, campaign.folder, LIMITS) as pool:
        report = pool.run(units[:18], campaign.keep)
        (campaign.folder / "another-plan").touch()  # the next round
        campaign.folder.manifest["stages"]["plan-1"] = {"inputs": {}, "outputs": {}, "facts": {}}
        campaign.folder.save()
        assert pool.run(units[18:], campaign.keep).done == 2
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
    campaign.order({SIZE * number: "kill-the-turned always" for number in range(8)})  # whichever unit it is given next

    def keep(unit: Unit, rows: bytes) -> None:
        if not campaign.kept:
            (campaign.folder / "other").write_text("other bits")
            cluster.start("good")
            until(lambda: pool.workers == 2)
        campaign.keep(unit, rows)

    with ClusterPool(campaign.opener(), cluster.address, campaign.folder, LIMITS) as pool:
        report = pool.run(campaign.units(8), keep)
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

    with ClusterPool(campaign.opener(), cluster.address, campaign.folder, LIMITS) as pool:
        with pytest.raises(KeyboardInterrupt):
            pool.run(campaign.units(5), campaign.keep, tick)
        assert sorted(campaign.kept) == [0, 1]
        until(lambda: not any(map(alive, psutil.Process(worker.pid).children())))
    (campaign.folder / str(SIZE * 2)).unlink()
    report = Report()
    with ClusterPool(campaign.opener(), cluster.address, campaign.folder, LIMITS) as pool:
        report = pool.run(campaign.units(5)[2:], campaign.keep)
    assert report.done == 3


def test_what_a_handler_raises_comes_back_as_itself(cluster: Cluster, campaign: Campaign) -> None:
    cluster.start("good")
    campaign.order({1: "toy always"})
    with pytest.raises(ToyError, match=r"^not on this machine; buy another$"):
        campaign.run(cluster.address, 3)


def test_nobody_there(cluster: Cluster, campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_roster, "CONNECT_TIMEOUT_S", 0.5)
    with pytest.raises(TestbedError, match=r"^no Dask scheduler answers at tcp://127\.0\.0\.1:1; start one"):
        campaign.run("tcp://127.0.0.1:1", 3)
    with (
        ClusterPool(campaign.opener(), cluster.address, campaign.folder, replace(LIMITS, join_s=1)) as pool,
        pytest.raises(
            TestbedError, match=r"^no worker has come to tcp://\S+ for 1 s; start some with `dask worker tcp"
        ),
    ):
        pool.run(campaign.units(3), campaign.keep)


def test_a_scheduler_that_goes_is_told(tmp_path: Path, campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_roster, "CONNECT_TIMEOUT_S", 2.0)
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
    summary = run_campaign(tiny_spec, gated, worker_setup=WorkerSetup(scheduler=cluster.address))
    assert_same_rows(gated, tiny_run)
    assert summary.failures.to_json() == {"crashes": 0, "hangs": 0, "losses": 0, "blamed": 0, "refused": []}
    assert 0 < summary.engine_seconds < summary.worker_seconds


@pytest.mark.slow
@pytest.mark.parametrize("how", ["margin", "fewer"])
def test_a_campaign_with_a_forger_among_its_workers_has_the_same_rows(
    cluster: Cluster, gated: Path, tiny_run: Path, tiny_spec: CampaignSpec, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(pipeline, "open_worker", open_forger)
    cluster.start("forger", TESTBED_FORGES=how)
    cluster.start("honest")
    summary = run_campaign(tiny_spec, gated, worker_setup=WorkerSetup(scheduler=cluster.address))
    assert_same_rows(gated, tiny_run)
    (named,) = summary.failures.refused
    assert ("margin_faulty is another in" if how == "margin" else "it gave ") in named
    assert named.endswith("what it did is thrown away and done again")


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
    for name in ("testbed.campaign.work.dask.pool", "testbed.campaign.work.dask.members"):
        monkeypatch.delitem(sys.modules, name)
    opener = Opener(print, (), {})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"^--scheduler needs Dask: pip install 'testbed\[cluster\]'$"):
        WorkerSetup(scheduler="tcp://127.0.0.1:1").pool(opener, RunFolder(tmp_path))
