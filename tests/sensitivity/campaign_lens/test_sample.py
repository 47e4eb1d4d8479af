"""Which faults are looked at: by hand, and as many of the population as the campaign's rows stand for."""

from __future__ import annotations

import numpy as np
import pytest

from testbed.campaign.run import Run
from testbed.sensitivity.campaign_lens.rows import BEHIND, LensRows
from testbed.sensitivity.campaign_lens.sample import GROUPS, draw_sample, group_of, shares_of


@pytest.mark.parametrize(
    ("sizes", "total", "shares"),
    [
        ([100, 100, 100, 100], 40, [10, 10, 10, 10]),
        ([3, 100, 0, 100], 43, [3, 20, 0, 20]),
        ([1, 5, 5, 5], 1, [1, 2, 2, 2]),
        ([1, 5, 5, 5], 100, [1, 5, 5, 5]),
        ([50, 50, 0, 0], 11, [6, 5, 0, 0]),
    ],
)
def test_each_outcome_gets_as_many_as_any_other(sizes: list[int], total: int, shares: list[int]) -> None:
    assert shares_of(np.array(sizes), total) == shares


def test_a_sample_stands_for_the_population(rows_of_models: list[LensRows]) -> None:
    for rows in rows_of_models:
        seen = rows.take(rows.entry != BEHIND)
        sample = draw_sample(rows, 60, seed=1)
        assert sample.behind == len(rows) - len(seen) > 0
        assert (sample.rows.entry != BEHIND).all()
        assert len(np.unique(sample.rows.fault_id)) == len(sample.rows)
        assert sample.design.weight.sum() == pytest.approx(seen.weight.sum())
        assert (np.diff(sample.rows.image) >= 0).all()
        assert sum(sample.candidates) == len(np.unique(seen.fault_id))
        assert sum(sample.drawn) == len(sample.rows)


def test_the_seed_decides(rows_of_models: list[LensRows]) -> None:
    rows = rows_of_models[0]
    first, again, other = (draw_sample(rows, 50, seed).rows.fault_id.tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_whole_sample_has_the_campaigns_rates(opened: Run, rows_of_models: list[LensRows]) -> None:
    rows = rows_of_models[0]
    sample = draw_sample(rows, 10**6, seed=0)
    assert sample.drawn == sample.candidates
    seen = rows.take(rows.entry != BEHIND)
    mean = sample.design.mean(sample.rows.sdc1, np.ones(len(sample.rows), bool))
    assert mean is not None
    assert mean.value == pytest.approx(np.average(seen.sdc1, weights=seen.weight))


def test_the_rates_of_a_sample_are_the_campaigns_by_kind_within_their_intervals(rows_of_models: list[LensRows]) -> None:
    rows = rows_of_models[0]
    seen = rows.take(rows.entry != BEHIND)
    misses = total = 0
    for seed in range(20):
        sample = draw_sample(rows, 120, seed)
        for kind in np.unique(seen.kind.astype(str)):
            of_kind = seen.kind == kind
            for measure in ("sdc1", "outside"):
                truth = np.average(getattr(seen, measure)[of_kind], weights=seen.weight[of_kind])
                mean = sample.design.mean(getattr(sample.rows, measure), sample.rows.kind == kind)
                assert mean is not None
                total += 1
                misses += not mean.low <= truth <= mean.high
    assert total >= 100
    assert misses <= 0.05 * total


def test_groups_are_outcomes(rows_of_models: list[LensRows]) -> None:
    rows = rows_of_models[0]
    names = np.array(GROUPS)[group_of(rows)]
    assert set(rows.outcome[names == "identical"]) == {"identical"}
    assert set(rows.outcome[names == "sdc1"]) == {"sdc1"}
    assert set(rows.outcome[names == "masked"]) == {"masked"}
    assert set(rows.outcome[names == "outside"]) <= {"sdc_tolerable", "due"}
