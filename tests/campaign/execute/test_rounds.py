"""What becomes of rows that are not believed any more, in the log and in later rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from testbed.campaign.execute.rounds import OnePlan, Round, run_round
from testbed.campaign.plan.unit import Unit
from testbed.campaign.results.arrow import to_stream
from testbed.campaign.results.outcome_counts import COLUMNS
from testbed.campaign.results.progress import Progress
from testbed.campaign.results.store import ResultStore
from testbed.campaign.work import spans
from testbed.campaign.work.contract import Report
from testbed.core.errors import TestbedError


def units(first: int, n: int) -> tuple[Unit, ...]:
    return tuple(Unit(number, "plan", number, number + 1, rows=1) for number in range(first, first + n))


def rows(unit: Unit, outcome: str = "masked") -> bytes:
    values: dict[str, Any] = dict(zip(COLUMNS, ([unit.start], ["model"], ["activation"], [0], [outcome]), strict=True))
    return to_stream(pa.table(values))


class Crew:
    """Keeps every unit; then, of ``thrown``, drops what it kept, or what an earlier round did, and does it again."""

    def __init__(self, thrown: Callable[[Sequence[Unit]], Sequence[Unit]] = lambda kept: []) -> None:
        self._thrown = thrown

    def run(self, units: Iterable[Unit], keep: Any, tick: Any, drop: Any) -> Report:
        kept = []
        for unit in units:
            keep(unit, rows(unit, "sdc1"))
            kept.append(unit)
        thrown = self._thrown(kept)
        drop(thrown)
        for unit in thrown:
            keep(unit, rows(unit))
        return Report(done=len(kept))


def run(store: ResultStore, progress: Progress, found: Round, pool: Any) -> None:
    run_round(found, 0, store, pool, progress, OnePlan())


def test_rows_that_are_dropped_are_gone_and_their_units_are_kept_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "SPAN_S", 0.0)
    progress = Progress(tmp_path)
    with ResultStore(tmp_path / "store", "plan") as store:
        run(store, progress, Round("plan", units(0, 10)), Crew(lambda kept: kept[2:5]))
        told = [table.column("outcome").to_pylist() for table in store.tables(range(10))]
    assert told == [["sdc1"]] * 2 + [["masked"]] * 3 + [["sdc1"]] * 5
    assert (progress.snapshot().units_done, dict(progress.snapshot().outcomes)) == (10, {"sdc1": 7, "masked": 3})


def test_where_an_earlier_round_is_not_believed_nothing_that_followed_from_it_is_left(tmp_path: Path) -> None:
    first = Round("plan", units(0, 4))
    with ResultStore(tmp_path / "store", "plan") as store:
        for unit in first.units:
            store.append(unit.number, rows(unit))
        with pytest.raises(
            TestbedError, match=r"^earlier rounds followed from rows .* run the same command again to go on$"
        ):
            run(store, Progress(tmp_path), Round("plan-1", units(4, 3)), Crew(lambda kept: first.units[2:3]))
        assert list(store) == [0, 1]
