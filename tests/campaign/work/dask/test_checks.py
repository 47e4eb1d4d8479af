"""A worker of a cluster that lies, in each way there is, is found and named, and none of its rows is left."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from testbed.campaign.plan.unit import Unit
from testbed.campaign.results.arrow import from_stream, to_stream
from testbed.campaign.work.contract import Report
from testbed.campaign.work.dask import checks as cluster_checks
from testbed.campaign.work.dask import members as cluster_roster
from testbed.campaign.work.dask.checks import Recheck
from testbed.campaign.work.dask.pool import ClusterPool
from testbed.campaign.work.dask.worker import Answer, Hello, introduce
from testbed.campaign.work.inprocess import InProcess
from testbed.campaign.work.slot import WorkerSlot
from testbed.core.errors import TestbedError
from tests.support.clusters import LIMITS, SIZE, Campaign
from tests.support.toy_handler import Toy

Lie = Callable[[pa.Table], Any]
"""From the right rows to what is said instead: a table, bytes, or something else that is no answer at all."""


@dataclass
class Done:
    """What Dask's client gives for a task that is over."""

    key: str
    value: Any
    status: str = "finished"

    def result(self, timeout: float) -> Any:
        return self.value

    def add_done_callback(self, call: Callable[[Any], None]) -> None:
        call(self)


class Client:
    """A Dask client with workers that answer at once, in this process. ``lies``: of each worker, by its address; of those
    units of which ``when(unit number)`` is true."""

    status = "running"
    workers: dict[str, Lie | None]
    when: Callable[[int], bool]
    ran: list[tuple[str, int]]

    def __init__(self, address: str, **options: Any) -> None:
        pass

    def nthreads(self) -> dict[str, int]:
        return dict.fromkeys(self.workers, 1)

    def submit(self, task: Any, job: Any, *units: Unit, key: str, workers: list[str], **options: Any) -> Done:
        (address,) = workers
        if task is introduce:
            return Done(key, Hello(f"host of {address}", None))
        (unit,) = units
        Client.ran.append((address, unit.number))
        rows = Toy(job.folder).run(unit, None)
        lie = self.workers[address]
        if lie is not None and Client.when(unit.number):
            told = lie(from_stream(rows))
            if not isinstance(told, (pa.Table, bytes)):
                return Done(key, told)
            rows = told if isinstance(told, bytes) else to_stream(told)
        return Done(key, Answer(rows=rows))

    def cancel(self, futures: Sequence[Done], force: bool) -> None:
        pass

    def run(self, *arguments: Any, **options: Any) -> None:
        pass

    def close(self, timeout: float) -> None:
        pass


@pytest.fixture
def campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Campaign:
    monkeypatch.setattr(cluster_roster, "Client", Client)
    monkeypatch.setattr(cluster_checks, "WorkerSlot", functools.partial(WorkerSlot, make=InProcess))
    Client.ran, Client.when = [], lambda number: True
    return Campaign(tmp_path / "run")


LIAR, HONEST, THIRD = "tcp://127.0.0.1:1", "tcp://127.0.0.1:2", "tcp://127.0.0.1:3"


def run(campaign: Campaign, n: int, recheck: Recheck) -> Report:
    def drop(units: Sequence[Unit]) -> None:
        for unit in units:
            del campaign.kept[unit.number]

    with ClusterPool(campaign.opener(), "tcp://127.0.0.1:0", campaign.folder, LIMITS, recheck=recheck) as pool:
        return pool.run(campaign.units(n), campaign.keep, drop=drop)


def changed(name: str, change: Callable[[list[Any]], list[Any]]) -> Lie:
    def lie(rows: pa.Table) -> pa.Table:
        column = rows.column(name)
        values = change(column.to_pylist())
        return rows.set_column(
            rows.column_names.index(name),
            name,
            pa.array(values, pa.string()).dictionary_encode()
            if pa.types.is_dictionary(column.type)
            else pa.array(values, column.type),
        )

    return lie


LIES: dict[str, tuple[Lie, str]] = {
    "another outcome": (
        changed("outcome", lambda told: ["sdc1", *told[1:-1], "sdc1"]),
        r"outcome is another in 1 of 4",
    ),
    "a crash": (changed("due", lambda told: ["crash", *told[1:]]), r"due is another in 1 of 4 rows"),
    "one bit of a value": (
        changed("value", lambda told: [*told[:-1], float(np.nextafter(told[-1], 9e9))]),
        r"value is another in 1 of 4",
    ),
    "NaN": (changed("value", lambda told: [float("nan")] * len(told)), r"value is another in 4 of 4 rows"),
    "fewer rows": (lambda rows: rows.slice(1), r"it gave 3 rows where there are 4"),
    "no rows": (lambda rows: rows.slice(0, 0), r"it gave 0 rows where there are 4"),
    "more rows": (lambda rows: pa.concat_tables([rows, rows.slice(3)]), r"it gave 5 rows where there are 4"),
    "other faults": (changed("fault_id", lambda told: [fault + 1 for fault in told]), r"fault_id is another in 4 of 4"),
    "one fault twice": (changed("fault_id", lambda told: [told[0], *told[:-1]]), r"fault_id is another in 3 of 4"),
    "another order": (lambda rows: rows.take([1, 0, 2, 3]), r"fault_id is another in 2 of 4"),
    "a column less": (lambda rows: rows.drop_columns(["due"]), r"other columns \(without due\)"),
    "a column more": (lambda rows: rows.append_column("x", rows.column("value")), r"other columns \(with 'x'\)"),
    "another type": (
        lambda rows: rows.set_column(1, "value", rows.column("value").cast(pa.float32())),
        r"\(value as float\)",
    ),
    "garbage": (lambda rows: b"no stream of rows", r"its rows cannot be read"),
    "nothing": (lambda rows: b"", r"its rows cannot be read"),
    "half a stream": (lambda rows: to_stream(rows)[:-200], r"its rows cannot be read"),
    "no bytes": (lambda rows: Answer(rows="rows"), r"its rows are of type str"),  # type: ignore[arg-type]
    "no answer": (lambda rows: {"rows": rows}, r"its answer is of type dict"),
}


@pytest.mark.parametrize("kind", LIES)
@pytest.mark.parametrize("others", [[HONEST], [HONEST, THIRD]])
def test_a_liar_is_named_and_none_of_its_rows_is_left(campaign: Campaign, kind: str, others: list[str]) -> None:
    lie, why = LIES[kind]
    Client.workers = {LIAR: lie} | dict.fromkeys(others)
    report = run(campaign, 12, Recheck(share=0.0001, seed=1))
    (named,) = report.refused
    assert named.startswith(f"{LIAR}, host of {LIAR}: ")
    assert re.search(why, named), named
    assert report.done == 12
    campaign.assert_rows_are_those_of_one_worker_here(12)


def test_one_that_lies_later_is_found_and_what_it_said_before_is_thrown_away(campaign: Campaign) -> None:
    lie, _ = LIES["another outcome"]
    Client.workers, Client.when = {LIAR: lie, HONEST: None}, lambda number: number >= 20
    seeds = [seed for seed in range(99) if sum(map(Recheck(0.1, seed=seed).draws, campaign.units(40)[20:])) >= 4]
    report = run(campaign, 40, Recheck(0.1, seed=seeds[0]))
    assert [named.split(",")[0] for named in report.refused] == [LIAR]
    by_liar = {number for address, number in Client.ran if address == LIAR}
    assert len(by_liar) > 5
    assert by_liar <= {number for address, number in Client.ran if address == HONEST}
    assert report.done == 40
    campaign.assert_rows_are_those_of_one_worker_here(40)


def test_one_that_lies_about_others_work_is_the_one_that_is_named(campaign: Campaign) -> None:
    """Which of two that differ is right, this machine's own engine says."""
    Client.workers = {HONEST: None, LIAR: LIES["another outcome"][0]}
    firsts = {0, 1}  # each worker's first unit, which the other runs again
    Client.when = lambda number: number == min(firsts) and (LIAR, number) in Client.ran
    report = run(campaign, 8, Recheck(seed=1))
    assert [named.split(",")[0] for named in report.refused] == [LIAR]
    campaign.assert_rows_are_those_of_one_worker_here(8)


def test_of_two_that_lie_in_different_ways_both_are_named(campaign: Campaign) -> None:
    Client.workers = {LIAR: LIES["another outcome"][0], THIRD: LIES["NaN"][0], HONEST: None}
    report = run(campaign, 8, Recheck(seed=1))
    assert {named.split(",")[0] for named in report.refused} == {LIAR, THIRD}
    campaign.assert_rows_are_those_of_one_worker_here(8)


@pytest.mark.parametrize("kind", ["another outcome", "fewer rows", "no answer"])
def test_a_liar_that_is_alone_is_held_against_this_machine(campaign: Campaign, kind: str) -> None:
    Client.workers = {LIAR: LIES[kind][0]}
    with pytest.raises(
        TestbedError, match=rf"^no worker at \S+ can take part: {LIAR}, host.*thrown away and done again$"
    ):
        run(campaign, 8, Recheck(seed=1))
    honest = {number: Toy(str(campaign.folder.path)).run(unit, None) for number, unit in enumerate(campaign.units(8))}
    assert all(table.equals(from_stream(honest[number])) for number, table in campaign.kept.items() if kind[0] == "a")


@pytest.mark.parametrize("answer", [Answer(left="its children were lost"), None])
def test_what_others_cannot_run_again_this_machine_does(campaign: Campaign, answer: Answer | None) -> None:
    Client.workers = {HONEST: None, THIRD: lambda rows: answer}
    Client.when = lambda number: (HONEST, number) in Client.ran  # when it runs again what that one did
    report = run(campaign, 8, Recheck(seed=1))
    assert report.done == 8
    assert report.left == {}
    campaign.assert_rows_are_those_of_one_worker_here(8)


def test_one_that_turns_out_unfit_while_it_checks_is_not_waited_for(campaign: Campaign) -> None:
    Client.workers = {HONEST: None, THIRD: lambda rows: Answer(refused="other golden bits")}
    Client.when = lambda number: (HONEST, number) in Client.ran
    report = run(campaign, 8, Recheck(seed=1))
    assert (report.done, [named.split(",")[0] for named in report.refused]) == (8, [THIRD])
    campaign.assert_rows_are_those_of_one_worker_here(8)


def test_an_honest_one_that_is_alone_is_believed(campaign: Campaign) -> None:
    Client.workers = {HONEST: None}
    report = run(campaign, 8, Recheck(share=1.0))
    assert (report.done, report.refused) == (8, [])
    campaign.assert_rows_are_those_of_one_worker_here(8)


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.1, 2 + 5, 2 + 40), (1.0, 200, 200)])
def test_as_many_units_are_run_again_as_was_asked_for(campaign: Campaign, share: float, least: int, most: int) -> None:
    Client.workers = {HONEST: None, THIRD: None}
    assert run(campaign, 200, Recheck(share, seed=3)).done == 200
    again = len(Client.ran) - 200
    assert least <= again <= most
    ran = [number for _, number in Client.ran]
    twice = [number for number in set(ran) if ran.count(number) == 2]
    assert len(twice) == again
    for number in twice:
        assert len({address for address, of in Client.ran if of == number}) == 2  # never by the same one


def test_the_draw_follows_from_its_seed_and_has_the_share_that_was_asked_for(campaign: Campaign) -> None:
    units = [Unit(number, "plan", SIZE * number, SIZE * (number + 1)) for number in range(20_000)]
    drawn = [sum(map(Recheck(0.02, seed=seed).draws, units)) for seed in (1, 2)]
    assert drawn[0] != drawn[1]
    assert all(abs(found - 400) < 5 * (400 * 0.98) ** 0.5 for found in drawn)
    assert list(map(Recheck(0.02, seed=1).draws, units)) == list(map(Recheck(0.02, seed=1).draws, units))
    assert Recheck().seed != Recheck().seed  # nobody can know it before
