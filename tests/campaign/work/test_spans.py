"""Units that are handed out together: each once, none across a border, none for longer than a kill may cost."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.campaign.files import PLAN
from testbed.campaign.pipeline import run_campaign
from testbed.campaign.plan.unit import Unit
from testbed.campaign.plan.units import units_of
from testbed.campaign.results.store import ResultStore
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.campaign.work import spans
from testbed.campaign.work.spans import SPAN_ROWS, SPAN_S, Spans
from testbed.campaign.work.worker_setup import WorkerSetup
from tests.support.victims import assert_same_rows


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def run_of(units: int, rows: int, number: int = 0, start: int = 0) -> list[Unit]:
    """Units of ``rows`` faults each, one row and one golden word a fault, which follow each other."""
    starts = [start + rows * place for place in range(units)]
    return [Unit(number + n, "plan", at, at + rows, rows, at, rows, start) for n, at in enumerate(starts)]


def finish(units: list[Unit], seconds_per_row: float, seconds_per_span: float = 0.0) -> list[Unit]:
    """One worker that takes so long."""
    clock, done = Clock(), []
    work = Spans(units, clock)
    for span in work:
        clock.now += seconds_per_span + span.rows * seconds_per_row
        work.kept(span)
        done.append(span)
    return done


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 300)), min_size=1, max_size=5), st.floats(0, 0.01))
def test_every_unit_is_in_one_span_and_none_joins_two_runs(runs: list[tuple[int, int]], seconds: float) -> None:
    units: list[Unit] = []
    for count, rows in runs:
        units += run_of(count, rows, len(units), units[-1].stop if units else 0)
    done = finish(units, seconds)
    assert [number for span in done for number in span.numbers] == [unit.number for unit in units]
    for span in done:
        parts = units[span.number : span.number + span.count]
        assert {part.run for part in parts} == {span.run}
        assert (span.start, span.stop) == (parts[0].start, parts[-1].stop)
        assert (span.rows, span.words) == (sum(part.rows for part in parts), sum(part.words for part in parts))
        assert span.word == parts[0].word
        assert span.count == 1 or span.rows <= SPAN_ROWS


def test_units_that_were_done_before_are_not_bridged() -> None:
    units = run_of(40, 8)
    del units[20]
    spans_ = finish(units, 1e-6)
    assert max(span.count for span in spans_) > 4
    assert all(20 not in span.numbers for span in spans_)


@pytest.mark.parametrize("seconds_per_row", [1e-5, 1e-4, 1e-3])
def test_a_span_takes_no_longer_than_a_kill_may_cost(seconds_per_row: float) -> None:
    done = finish(run_of(2_000, 16), seconds_per_row, seconds_per_span=0.008)
    seconds = [0.008 + span.rows * seconds_per_row for span in done]
    assert max(seconds) <= SPAN_S
    assert len(done) < 2_000 / 4
    full = min(SPAN_ROWS, SPAN_S / seconds_per_row)
    assert max(span.rows for span in done) > 0.9 * full - 16


def test_units_that_take_long_stay_alone() -> None:
    assert {span.count for span in finish(run_of(20, 100), seconds_per_row=0.002)} == {1}


def test_an_engine_that_becomes_slow_gets_short_spans_again() -> None:
    clock, work_s = Clock(), 1e-5
    work = Spans(run_of(9_000, 16), clock)
    counts = []
    for number, span in zip(range(50), work, strict=False):
        counts.append(span.count)
        clock.now += span.rows * (work_s if number < 20 else 0.01)
        work.kept(span)
    assert max(counts[:20]) * 16 == SPAN_ROWS
    assert set(counts[21:50]) == {1}


@pytest.mark.parametrize("seconds", [0.0, 100.0])
def test_a_campaigns_rows_are_the_same_however_its_units_are_joined(
    gated: Path, tiny_run: Path, tiny_spec: CampaignSpec, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    counts = []
    append = ResultStore.append

    def counted(self: ResultStore, unit: int, rows: bytes, count: int = 1) -> None:
        counts.append(count)
        append(self, unit, rows, count)

    monkeypatch.setattr(spans, "SPAN_S", seconds)
    monkeypatch.setattr(ResultStore, "append", counted)
    run_campaign(tiny_spec, gated, worker_setup=WorkerSetup(0))
    assert_same_rows(gated, tiny_run)
    assert sum(counts) == len(list(units_of(gated / PLAN, PLAN, 6, 64, 0)))
    assert (max(counts) == 1) == (seconds == 0)
