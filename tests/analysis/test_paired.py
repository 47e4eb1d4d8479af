"""Shares of an event that was removed, against hand computation, SciPy, a bootstrap in NumPy, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from testbed.analysis.paired import RemovedShare, removed_by_group
from testbed.analysis.survey import SurveyDesign
from testbed.core.arrays import Float64s


def simple(before: list[int], after: list[int]) -> RemovedShare:
    n = len(before)
    design = SurveyDesign(np.zeros(n), np.full(n, 1000.0), np.arange(n))
    return removed_by_group(design, before, after, np.zeros(n))[0]


def test_by_hand() -> None:
    assert simple([1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]).share == 0.75
    assert simple([1, 0, 0, 0], [1, 1, 1, 0]).share == -2
    kept = simple([1, 1, 0, 0], [1, 1, 0, 0])
    assert kept.share == 0
    assert kept.low is not None
    assert kept.high is not None
    assert kept.low < 0 < kept.high < 1
    stratum, population = np.array([0, 0, 1, 1]), np.array([10.0, 10, 1, 1])
    design = SurveyDesign(stratum, population, np.arange(4))
    by_group = removed_by_group(design, [1, 1, 1, 1], [0, 1, 0, 0], ["a", "a", "b", "b"])
    assert {name: removed.share for name, removed in by_group.items()} == {"a": 0.5, "b": 1.0}
    assert removed_by_group(design, [1, 1, 1, 1], [0, 1, 0, 0], np.zeros(4))[0].share == pytest.approx(1 - 5 / 11)


def test_without_an_event_before_there_is_no_share() -> None:
    added = simple([0, 0, 0], [0, 1, 0])
    assert (added.share, added.low) == (None, None)
    assert added.high == pytest.approx(1 - 0.025 / 0.975)
    design = SurveyDesign(np.zeros(3), np.ones(3), np.arange(3))
    assert removed_by_group(design, [0, 0, 0], [0, 0, 0], np.zeros(3)) == {}
    assert list(removed_by_group(design, [0, 1, 0], [0, 0, 0], ["x", "y", "x"])) == ["y"]


@pytest.mark.parametrize("n", [1, 20, 300])
def test_where_nothing_is_left_the_bound_is_the_binomial_one(n: int) -> None:
    """All events gone: one more would be one of n, whose upper limit is Clopper and Pearson's."""
    removed = simple([1] * n + [0] * 50, [0] * (n + 50))
    upper = binomtest(0, n).proportion_ci(0.95, "exact").high
    assert removed.share == removed.high == 1
    assert removed.low == pytest.approx(1 - upper / (1 - upper), rel=1e-6)


@pytest.mark.parametrize("wrong", [[0, 2], [1], [0.5, 0]])
def test_events_are_noughts_and_ones(wrong: list[float]) -> None:
    design = SurveyDesign([0, 0], [1, 1], [0, 1])
    with pytest.raises(ValueError, match="a 0 or a 1 for each row"):
        removed_by_group(design, wrong, [0, 0], [0, 0])


STRATA = ((400.0, 0.9, 0.02), (4_000.0, 0.25, 0.10), (40_000.0, 0.06, 0.3))  # population, P(before), P(still | before)
IMAGES = 3


def sample(random: np.random.Generator, faults: int) -> tuple[SurveyDesign, Float64s, Float64s]:
    """Faults of three strata, each run on three images that mostly fail together; few events are new."""
    before, after, stratum, population = [], [], [], []
    for number, (size, rate, kept) in enumerate(STRATA):
        fails = random.random(faults) < rate
        b = fails[:, None] & (random.random((faults, IMAGES)) < 0.9)
        stays = random.random(faults) < kept
        a = (b & stays[:, None]) | (~b & (random.random((faults, IMAGES)) < 0.002))
        before.append(b.ravel())
        after.append(a.ravel())
        stratum.append(np.full(faults * IMAGES, number))
        population.append(np.full(faults * IMAGES, size))
    cluster = np.repeat(np.arange(len(STRATA) * faults), IMAGES)
    design = SurveyDesign(np.concatenate(stratum), np.concatenate(population), cluster)
    return design, np.concatenate(before).astype(float), np.concatenate(after).astype(float)


def truth() -> float:
    total = [sum(size * f(rate, kept) for size, rate, kept in STRATA) for f in (_before, _after)]
    return 1 - total[1] / total[0]


def _before(rate: float, kept: float) -> float:
    return 0.9 * rate


def _after(rate: float, kept: float) -> float:
    return 0.9 * rate * kept + (1 - 0.9 * rate) * 0.002


def test_the_interval_is_about_a_bootstraps() -> None:
    """Faults drawn again with replacement within their strata, 2,000 times; percentiles of the ratio."""
    random, faults = np.random.default_rng(1), 600
    design, before, after = sample(random, faults)
    removed = removed_by_group(design, before, after, np.zeros(len(before)))[0]
    weight = np.array([size for size, _, _ in STRATA])
    b, a = (values.reshape(len(STRATA), faults, IMAGES).mean(2) for values in (before, after))
    ratios = []
    for _ in range(2_000):
        drawn = random.integers(0, faults, (len(STRATA), faults))
        totals = [(weight * np.take_along_axis(values, drawn, 1).mean(1)).sum() for values in (b, a)]
        ratios.append(1 - totals[1] / totals[0])
    low, high = np.quantile(ratios, [0.025, 0.975])
    assert removed.low is not None
    assert removed.high is not None
    assert removed.low == pytest.approx(low, abs=0.2 * (high - low))
    assert removed.high == pytest.approx(high, abs=0.2 * (high - low))


@pytest.mark.parametrize("faults", [30, 150])
def test_intervals_hold_the_truth_as_often_as_they_say(faults: int) -> None:
    random, runs, covered = np.random.default_rng(7), 400, 0
    for _ in range(runs):
        design, before, after = sample(random, faults)
        removed = removed_by_group(design, before, after, np.zeros(len(before)))[0]
        low, high = (-np.inf if removed.low is None else removed.low), (removed.high or 0.0)
        covered += low <= truth() <= high
    assert covered / runs > 0.93
