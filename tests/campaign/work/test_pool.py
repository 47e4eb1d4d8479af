"""Units on isolated workers: nothing that one fault does to an engine costs another fault its row."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from testbed.campaign.plan.unit import Unit
from testbed.campaign.work import pool as crew_module
from testbed.campaign.work.calls import HandlerCall, Returned, RunUnit
from testbed.campaign.work.contract import Limits
from testbed.campaign.work.inprocess import InProcess
from testbed.campaign.work.pool import LocalPool
from testbed.campaign.work.slot import OtherGolden, WorkerSlot
from testbed.core.errors import TestbedError
from tests.support.pool_site import PATIENT, SIZE, Site, assert_rows, units


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.mark.parametrize("children", [0, 2])
def test_workers_that_were_begun_ahead_are_those_that_run(site: Site, children: int) -> None:
    with LocalPool(site.opener(), children, PATIENT) as pool:
        pool.begin()
        pool.begin()
        pool.run(units(7), site.keep)
    assert_rows(site.rows, 7)
    assert len(site.log("opened")) == max(children, 1)


def test_workers_that_were_begun_and_given_no_work_end_with_the_pool(site: Site) -> None:
    with LocalPool(site.opener(opening="hang always"), 2, PATIENT) as pool:
        pool.begin()
        begun = psutil.Process().children()
        assert len(begun) == 2
    assert psutil.wait_procs(begun, timeout=20)[1] == []


@pytest.mark.parametrize("children", [0, 1, 3])
def test_every_unit_is_run_once_whoever_runs_it(site: Site, children: int) -> None:
    report = site.run(7, children)
    assert_rows(site.rows, 7)
    assert len(site.log("run")) == 7
    assert len(site.log("opened")) == max(children, 1)
    pids = {line.split()[0] for line in site.log("run")}
    assert (pids == {str(os.getpid())}) == (children == 0)
    assert (report.done, report.left, report.crashes, report.losses) == (7, {}, 0, 0)
    report.check_complete()


def test_a_crew_stays_for_several_rounds(site: Site) -> None:
    with LocalPool(site.opener(), 2, PATIENT) as pool:
        pool.run(units(6)[:3], site.keep)
        pool.run(units(6)[3:], site.keep)
        pool.run([], site.keep)
    assert_rows(site.rows, 6)
    assert len(site.log("opened")) <= 2


@pytest.mark.parametrize(("children", "deed"), [(2, "abort"), (1, "engine"), (0, "engine")])
def test_a_fault_that_always_fails_is_found_and_nobody_else_is_blamed(site: Site, children: int, deed: str) -> None:
    site.order({SIZE + 5: f"{deed} always"})
    report = site.run(3, children)
    assert_rows(site.rows, 3, due={SIZE + 5: "crash"})
    assert (report.done, report.crashes, report.blamed, report.losses) == (3, 6, 1, 0)
    alone = site.log(f"run 1 {SIZE + 5} 1$")
    assert len(alone) == 3  # once found, and confirmed twice,
    if children:
        pids = [line.split()[0] for line in alone[1:]]
        assert [len(site.log(f"^{pid} run")) for pid in pids] == [1, 1]  # on workers that had run nothing else


def test_several_in_one_unit_of_one_and_a_whole_unit(site: Site) -> None:
    site.order(dict.fromkeys([0, 3, 7, *range(SIZE, 2 * SIZE)], "engine always"))
    report = site.run(2, children=0)
    assert_rows(site.rows, 2, due=dict.fromkeys([0, 3, 7, *range(SIZE, 2 * SIZE)], "crash"))
    assert report.blamed == 3 + SIZE


@pytest.mark.parametrize("deed", ["hang", "lock"])
def test_a_fault_that_hangs_is_found_by_the_clock(site: Site, deed: str) -> None:
    site.order({1: f"{deed} always"})
    with LocalPool(site.opener(), 1, Limits(floor_s=1.5, open_s=60)) as pool:
        report = pool.run([Unit(0, "plan", 0, 2)], site.keep)
    assert [row["due"] for row in site.rows] == [None, "hang"]
    assert report.hangs >= 4  # on a loaded machine the fault beside it may take too long, too, once or twice
    assert (report.crashes, report.blamed) == (0, 1)


def test_the_clock_allows_ten_times_the_golden_run_of_the_same_work(site: Site) -> None:
    """Golden runs take the toy 1 ms per fault."""
    site.order({5: "engine always"})
    allowed: dict[tuple[str, int], float] = {}

    class Clocked(InProcess):
        def call(self, call: HandlerCall[Returned], timeout_s: float) -> Returned:
            asked: object = call
            faults = len(asked.faults) if isinstance(asked, RunUnit) and asked.faults is not None else SIZE
            allowed[call.name, faults] = timeout_s
            return super().call(call, timeout_s)

    for floor_s, alone_s in ((0.0, 0.01), (0.03, 0.03)):
        slot = WorkerSlot(site.opener(), Limits(floor_s=floor_s, open_s=77.0), make=Clocked)
        slot.finish(units(1)[0])
        slot.close()
        assert allowed["run", SIZE] == pytest.approx(0.08)
        assert allowed["run", 1] == pytest.approx(alone_s)
        assert {s for (method, _), s in allowed.items() if method != "run"} == {77.0}


def test_what_only_fails_in_company_is_nobodys_fault(site: Site) -> None:
    site.order({5: "abort company"})
    report = site.run(1, children=1)
    assert_rows(site.rows, 1)
    assert report.crashes == 3  # of 8, 4 and 2
    assert report.blamed == 0


@pytest.mark.parametrize(("times", "flagged"), [(1, ()), (3, ()), (4, (5,)), (5, (5,))])
def test_only_a_fault_that_failed_alone_and_then_no_more_is_marked(
    site: Site, times: int, flagged: tuple[int, ...]
) -> None:
    """8, 4, 2, alone, alone again, and again: the sixth failure would be its third alone."""
    site.order({5: f"engine {times}"})
    report = site.run(1, children=0)
    assert_rows(site.rows, 1, flagged=flagged)
    assert report.crashes == times
    assert report.blamed == 0


@pytest.mark.parametrize(
    ("children", "deed"), [(1, "kill"), (1, "overflow"), (1, "memory"), (0, "memory"), (0, "engine-memory")]
)
def test_a_lost_worker_is_not_a_crash_its_unit_is_run_again(site: Site, children: int, deed: str) -> None:
    site.order({SIZE + 1: f"{deed} 2"})
    report = site.run(2, children)
    assert_rows(site.rows, 2)
    assert (report.losses, report.crashes, report.blamed) == (2, 0, 0)


def test_a_unit_whose_workers_are_always_lost_is_left_and_the_others_are_done(site: Site) -> None:
    site.order({SIZE + 1: "kill always"})
    report = site.run(4)
    assert sorted(site.kept) == [0, 2, 3]
    assert list(report.left) == [1]
    assert report.losses == 1 + PATIENT.retries
    with pytest.raises(TestbedError) as caught:
        report.check_complete()
    assert str(caught.value) == (
        "1 unit of work is left, 3 were done and are kept; its workers were lost again and again (ended by SIGKILL in"
        " run); run the same command again to go on"
    )
    assert caught.value.exit_code == 1
    (site.folder / str(SIZE + 1)).unlink()  # memory was found
    with LocalPool(site.opener(), 1, PATIENT) as pool:
        pool.run([units(4)[1]], site.keep).check_complete()
    assert_rows(site.rows, 4)


def test_a_machine_on_which_nothing_works_any_more_is_given_up(site: Site) -> None:
    site.order({SIZE * unit: "memory always" for unit in range(2, 30)})
    limits = Limits(floor_s=30, open_s=60, retries=1, backoff_s=0, left_in_a_row=3)
    with pytest.raises(TestbedError, match=r"^3 units of work are left, 2 were done and are kept; their workers"):
        site.run(30, children=0, limits=limits)
    assert sorted(site.kept) == [0, 1]


def test_a_worker_with_other_golden_bits_gets_no_work(site: Site) -> None:
    with (
        LocalPool(site.opener(golden="another"), 2, PATIENT) as pool,
        pytest.raises(OtherGolden, match=r"^the engine on .+ \(.+\) gives other golden bits .*start anew"),
    ):
        pool.run(units(3), site.keep)
    assert not site.kept
    assert site.log("run") == []


@pytest.mark.parametrize(("children", "deed"), [(2, "toy"), (0, "toy"), (2, "bug")])
def test_what_is_no_failure_of_the_engine_ends_the_campaign(site: Site, children: int, deed: str) -> None:
    site.order({SIZE + 1: f"{deed} always"})
    with pytest.raises(Exception, match="buy another" if deed == "toy" else "a bug") as caught:
        site.run(50, children)
    assert isinstance(caught.value, TestbedError) == (deed == "toy")
    assert len(site.log("run")) < 50


@pytest.mark.parametrize("children", [1, 0])
def test_an_engine_that_cannot_be_built_is_told_at_once(site: Site, children: int) -> None:
    with pytest.raises(TestbedError, match=r"^the engine says no$"):
        site.run(3, children, opening="engine always")
    assert len(site.log("opened")) == 1
    assert not site.kept


def test_no_worker_at_all(site: Site) -> None:
    with pytest.raises(
        TestbedError, match=r"^no worker can be opened on .*: ended by SIGABRT while it was opened; run"
    ):
        site.run(3, limits=Limits(open_s=60, retries=1, backoff_s=0), opening="abort always")


def test_where_memory_is_for_one_worker_only_one_does_it_all(site: Site) -> None:
    """The first two of six openings fail: with one retry, that can be one slot's two tries."""
    report = site.run(6, limits=Limits(open_s=60, retries=0), opening="memory 1")
    assert_rows(site.rows, 6)
    assert report.done == 6


# ---- what happens to the parent


def test_ctrl_c_ends_the_workers_at_once_and_keeps_what_is_done(site: Site) -> None:
    site.order({SIZE * 3: "hang always", SIZE * 4: "lock always"})
    start = time.monotonic()
    children: list[psutil.Process] = []

    def tick(workers: int) -> None:
        if len(site.kept) == 3:
            children.extend(psutil.Process().children())
            signal.raise_signal(signal.SIGINT)

    with LocalPool(site.opener(), 2, PATIENT) as pool, pytest.raises(KeyboardInterrupt):
        pool.run(units(20), site.keep, tick)
    assert time.monotonic() - start < 20  # the hanging ones are not waited for
    assert sorted(site.kept) == [0, 1, 2]
    assert children
    assert not any(child.is_running() for child in children)


def test_a_second_ctrl_c_before_anything_was_told_to_stop_ends_it_all_the_same(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a notebook gets it; the command line ends the process."""
    close, closed = crew_module.UnitQueue.close, list[bool]()

    def interrupted(source: crew_module.UnitQueue) -> None:
        if not closed:
            closed.append(True)
            raise KeyboardInterrupt
        close(source)

    def keep(unit: Unit, rows: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(crew_module.UnitQueue, "close", interrupted)
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        site.run(200, keep=keep)
    assert len(site.log("run")) < 20
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("children", [2, 0])
def test_a_store_that_takes_no_more_ends_it_with_its_own_message(site: Site, children: int) -> None:
    def keep(unit: Unit, rows: bytes) -> None:
        if len(site.kept) == 2:
            raise TestbedError("the disk is full")
        site.keep(unit, rows)

    with pytest.raises(TestbedError, match=r"^the disk is full$"):
        site.run(20, children, keep=keep)
    assert len(site.kept) == 2
    assert len(site.log("run")) < 20


@pytest.mark.parametrize("children", [2, 0])
def test_units_come_one_by_one(site: Site, children: int) -> None:
    """A plan of a million faults is not held in memory: no more is asked for than is being worked at."""
    asked: list[int] = []

    def stream() -> Iterator[Unit]:
        for unit in units(30):
            asked.append(unit.number)
            yield unit

    ahead: list[int] = []

    def keep(unit: Unit, rows: bytes) -> None:
        ahead.append(len(asked) - len(site.kept))
        site.keep(unit, rows)

    with LocalPool(site.opener(), children, PATIENT) as pool:
        pool.run(stream(), keep)
    assert max(ahead) <= 2 + 4 + 2


def test_a_broken_source_of_units_is_told(site: Site) -> None:
    def stream() -> Iterator[Unit]:
        yield units(1)[0]
        raise TestbedError("the plan was cut")

    with LocalPool(site.opener(), 2, PATIENT) as pool, pytest.raises(TestbedError, match=r"^the plan was cut$"):
        pool.run(stream(), site.keep)


def test_efficiency_is_the_engines_share_of_the_workers_time(site: Site) -> None:
    site.order(dict.fromkeys(range(2 * SIZE), "slow always"))
    report = site.run(2)
    assert report.engine_seconds == pytest.approx(2 * SIZE * 0.1, rel=0.5)
    assert report.worker_seconds == pytest.approx(2 * report.wall_seconds)
    assert report.efficiency == pytest.approx(report.engine_seconds / report.worker_seconds)
