"""Means over a subsample of a weighted sample: by hand, against simple samples, and their coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from testbed.analysis.stats import clopper_pearson
from testbed.analysis.two_phase import TwoPhaseSample

ALL = np.ones(4, bool)


def sample() -> TwoPhaseSample:
    """Of group 0 two units of four were subsampled, of group 1 both of two."""
    return TwoPhaseSample(
        first_weight=np.array([1.0, 3.0, 10.0, 20.0]),
        group=np.array([0, 0, 1, 1]),
        group_units=np.array([4, 2]),
        group_weight=np.array([8.0, 30.0]),
    )


def test_weights_are_those_of_the_groups() -> None:
    assert sample().weight.tolist() == [2.0, 6.0, 10.0, 20.0]  # group 0: 8 over 1 + 3, twice as much


def test_means_and_variances_by_hand() -> None:
    design = sample()
    mean = design.mean([1, 0, 1, 0], ALL)
    assert mean is not None
    assert mean.value == pytest.approx((2 + 10) / 38)
    assert mean.n == 4
    residual = np.array([1, 0, 1, 0]) - 12 / 38
    first = (
        2 * 1 * residual[0] ** 2 + 6 * 3 * residual[1] ** 2 + 10 * 10 * residual[2] ** 2 + 20 * 20 * residual[3] ** 2
    )
    centre = (1 * residual[0] + 3 * residual[1]) / 4
    second = (1 - 2 / 4) * 2 * ((2 * (residual[0] - centre)) ** 2 + (6 * (residual[1] - centre)) ** 2)
    assert design.first_variance(residual) == pytest.approx(first)
    assert design.second_variance(residual) == pytest.approx(second)  # nothing of group 1 was left out
    inside = np.array([True, True, False, True])
    part = design.mean([1, 0, 1, 0], inside)
    assert part is not None
    assert part.value == pytest.approx(2 / 28)
    assert part.n == 3
    assert design.mean([1, 0, 1, 0], ~ALL) is None
    with pytest.raises(ValueError, match="from 0 to 1"):
        design.mean([2, 0, 0, 0], ALL)


@pytest.mark.parametrize("events", [0, 3, 20])
def test_a_whole_simple_sample_has_the_exact_interval(events: int) -> None:
    design = TwoPhaseSample(np.ones(20), np.zeros(20, np.int64), np.array([20]), np.array([20.0]))
    mean = design.mean(np.arange(20) < events, np.ones(20, bool))
    assert mean is not None
    exact = clopper_pearson(events, 20)
    assert (mean.low, mean.high) == pytest.approx((float(exact.low), float(exact.high)))


def test_intervals_cover_what_was_drawn_from() -> None:
    random = np.random.default_rng(0)
    units = 1200
    weight = random.choice([1.0, 4.0, 30.0], units)
    group = random.choice(3, units, p=[0.1, 0.3, 0.6])
    chance = np.array([0.6, 0.3, 0.02])[group]
    domain = random.random(units) < 0.3
    truth = {
        name: (weight * chance)[of].sum() / weight[of].sum() for name, of in (("all", domain | True), ("part", domain))
    }
    covered = dict.fromkeys(truth, 0)
    for _ in range(300):
        values = random.random(units) < chance
        drawn = np.concatenate([random.choice(np.flatnonzero(group == g), 60, replace=False) for g in range(3)])
        totals = np.array([weight[group == g].sum() for g in range(3)])
        design = TwoPhaseSample(weight[drawn], group[drawn], np.bincount(group), totals)
        for name, of in (("all", np.ones(len(drawn), bool)), ("part", domain[drawn])):
            mean = design.mean(values[drawn], of)
            assert mean is not None
            covered[name] += mean.low <= truth[name] <= mean.high
    assert min(covered.values()) >= 0.92 * 300
