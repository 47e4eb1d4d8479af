"""Where faults die out, held against what a campaign stored."""

from __future__ import annotations

from pathlib import Path

import measure_dropping

import testbed


def test_what_is_golden_again_is_what_the_campaign_found(tiny_run: Path) -> None:
    with testbed.open_run(tiny_run) as run:
        rows = measure_dropping.followed(run)
        record = measure_dropping.measured(run, "fp32")
    assert len(rows)
    assert (rows.golden_output == (rows.outcome == "identical")).all()
    assert record.disagree == 0
    died = rows.died < rows.stages - 1
    assert rows.golden_output[died].all()  # everything goes through a stage's end
    assert (rows.died >= rows.stage).all()
    followed = rows[rows.evaluation == "unchanged"]
    assert (followed.died < followed.stages).all()


def test_the_shares_are_those_of_the_rows(tiny_run: Path) -> None:
    with testbed.open_run(tiny_run) as run:
        rows = measure_dropping.followed(run)
        record = measure_dropping.measured(run, "fp32")
    every, *kinds = record.kinds
    assert every.rows == len(rows) == sum(kind.rows for kind in kinds)
    assert every.identical == (rows.outcome == "identical").mean()
    assert every.today == rows.evaluation.isin(["unchanged", "dead"]).mean()
    assert 0 <= every.saved < 1
