from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from testbed.analysis.adaptive.rule import StopRule
from testbed.analysis.adaptive.simulation import play
from testbed.analysis.second_stage import (
    EventComponents,
    best_units,
    costs_of,
    pooled_correlation,
    systematic_sample,
)
from testbed.analysis.stratified import SamplingFrame, StratumTally
from testbed.analysis.survey import SurveyDesign


class FromStart:
    """Random numbers that are none: orders are left alone, and the sample starts where it is told."""

    def __init__(self, start):
        self.start = start

    def permutation(self, size):
        return np.arange(size)

    def integers(self, n):
        assert 0 <= self.start < n
        return self.start


GROUPS = st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) > 0)
SAMPLES = GROUPS.flatmap(lambda sizes: st.tuples(st.just(sizes), st.integers(1, sum(sizes))))


@given(SAMPLES)
def test_every_unit_is_taken_with_the_same_probability_exactly(sample):
    sizes, taken = sample
    n = sum(sizes)
    times = np.zeros(n)
    for start in range(n):
        units = systematic_sample(sizes, taken, cast(np.random.Generator, FromStart(start)))
        times[units] += 1
    assert (times == taken).all()  # of n starts, all as probable


@given(SAMPLES, st.integers(0, 2**32))
def test_units_are_distinct_ascend_and_are_shared_out_over_the_groups(sample, seed):
    sizes, taken = sample
    units = systematic_sample(sizes, taken, np.random.default_rng(seed))
    assert len(units) == taken
    assert (np.diff(units) > 0).all()
    group = np.searchsorted(np.cumsum(sizes), units, side="right")
    counts = np.bincount(group, minlength=len(sizes))
    assert (np.abs(counts - taken * np.array(sizes) / sum(sizes)) < 1).all()


def test_units_of_a_group_meet_in_every_combination():
    pairs = {tuple(systematic_sample([4], 2, np.random.default_rng(seed)).tolist()) for seed in range(200)}
    assert len(pairs) == 6


def clustered(rng, faults, images, rate, alike):
    """(faults, images) events. alike: share of the faults whose images all fail together."""
    together = rng.random((faults, 1)) < rate
    alone = rng.random((faults, images)) < rate * np.linspace(0, 2, images)  # some images are fragile, some are not
    return np.where(rng.random((faults, 1)) < alike, together, alone)


def test_two_stage_rates_are_unbiased_and_covered_however_images_cluster_and_however_many_faults_are_drawn():
    """A stratum of 30 faults, all of which are drawn, and one of 3,000, of which 90 are, on 4 of 16 images each."""
    campaigns, rng = 600, np.random.default_rng(3)
    for alike in (0.0, 0.5, 1.0):
        truth = [clustered(rng, faults, 16, rate, alike) for faults, rate in ((30, 0.4), (3000, 0.05))]
        sizes = np.array(list(map(len, truth)), float)
        wanted = float(sizes @ [values.mean() for values in truth] / sizes.sum())
        held, rates = 0, []
        for _ in range(campaigns):
            y, stratum, cluster = [], [], []
            for number, (values, drawn) in enumerate(zip(truth, (30, 90), strict=True)):
                for fault in rng.choice(len(values), drawn, replace=False):
                    y.append(values[fault][systematic_sample([8, 8], 4, rng)])
                    stratum.append(np.full(4, number))
                    cluster.append(np.full(4, fault + 10_000 * number))
            columns = (np.concatenate(part) for part in (y, stratum, cluster))
            events, strata, clusters = columns
            estimate = SurveyDesign(strata, sizes[strata], clusters).estimate(events)
            held += estimate.low <= wanted <= estimate.high
            rates.append(estimate.rate)
        error = np.std(rates, ddof=1) / np.sqrt(campaigns)
        assert abs(np.mean(rates) - wanted) < 3.5 * error
        assert held >= binom.ppf(1e-4, campaigns, 0.95)


# --- how many units ----------------------------------------------------------------------------------------------------


def beta_events(rng, clusters, units, rate, correlation):
    size = 1 / correlation - 1
    return rng.random((clusters, units)) < rng.beta(rate * size, (1 - rate) * size, (clusters, 1))


def test_components_are_unbiased_and_add_up():
    """Of beta-binomial clusters the variance of an event is p (1 - p), of which the correlation lies between clusters."""
    rng = np.random.default_rng(1)
    found = [EventComponents.of(beta_events(rng, 40, 4, 0.2, 0.3)) for _ in range(1500)]
    for part, wanted in (("between", 0.3 * 0.16), ("within", 0.7 * 0.16), ("total", 0.16)):
        values = np.array([getattr(kind, part) for kind in found])
        assert abs(values.mean() - wanted) < 3.5 * values.std() / np.sqrt(len(values))


def test_correlations_of_kinds_pool_by_population_and_deviation():
    same, apart = EventComponents(0.16, 0.0), EventComponents(0.0, 0.04)
    assert pooled_correlation([same, apart], [1, 1]) == pytest.approx(0.4 / (0.4 + 0.2))
    assert pooled_correlation([same, apart], [1, 8]) == pytest.approx(0.4 / (0.4 + 8 * 0.2))
    assert pooled_correlation([EventComponents(0, 0), apart], [1e9, 1]) == 0
    assert pooled_correlation([EventComponents(-0.01, 0.1)], [1]) == 0
    assert pooled_correlation([EventComponents(0, 0)] * 2, [1, 1]) is None


@given(st.floats(0, 100), st.floats(1e-3, 10), st.floats(0, 1), st.integers(1, 64))
def test_no_other_number_of_units_has_less_variance_for_its_time(cluster, unit, correlation, most):
    choice = best_units(cluster, unit, correlation, most)
    units = np.arange(1, most + 1)
    cost = (cluster + unit * units) * (correlation + (1 - correlation) / units)
    assert 1 <= choice.units <= most
    assert cost[choice.units - 1] <= cost.min() * (1 + 1e-9)


def test_cochrans_own_numbers():
    assert best_units(9, 1, 0.2, 64).exact == pytest.approx(6)  # sqrt(9 x 4)
    assert best_units(9, 1, 0.2, 64).units == 6
    assert best_units(9, 1, 0.2, 4).units == 4
    assert best_units(9, 1, 0.0, 64).units == 64
    assert best_units(9, 1, 1.0, 64).units == 1
    assert best_units(0, 1, 0.2, 64).units == 1


def test_costs_are_those_of_a_line_and_never_absurd():
    assert costs_of((1, 4), (0.5, 1.1)) == pytest.approx((0.3, 0.2))
    fault, row = costs_of((1, 4), (0.5, 0.4))  # more rows in less time: noise
    assert row == pytest.approx(0.004)
    assert fault == pytest.approx(0.45 - 2.5 * 0.004)
    assert costs_of((1, 4), (0.1, 0.9)) == pytest.approx((0, 0.1625))


# --- adaptive campaigns whose faults are run on some of the images ------------------------------------------------------


class TwoStageTruth:
    """Faults whose outcome on every one of 64 images is known; each draw sees some of them."""

    def __init__(self, values, images, frame):
        self.values, self.images, self.frame = values, images, frame

    @property
    def rates(self):
        return self.frame.sums(self.frame.share * np.array([faults.mean() for faults in self.values]))

    def draw(self, rng, n, before):
        columns = np.zeros((3, *n.shape))
        for campaign, stratum in np.argwhere(n > 0):
            faults = self.values[stratum]
            which = rng.integers(len(faults), size=int(n[campaign, stratum]))
            seen = [faults[fault][systematic_sample([16] * 4, self.images, rng)].mean() for fault in which]
            columns[:, campaign, stratum] = len(seen), np.sum(seen), np.sum(np.square(seen))
        return StratumTally(*columns)


@pytest.mark.parametrize("images", [1, 4])
def test_adaptive_campaigns_on_some_of_strongly_clustered_images_are_unbiased_and_covered(images):
    """Correlation 0.7, a common stratum, a rare one of 0.4 % and one without an event."""
    rng, campaigns = np.random.default_rng(8), 200
    values = [beta_events(rng, 2000, 64, 0.2, 0.7), beta_events(rng, 3000, 64, 0.004, 0.7), np.zeros((1000, 64), bool)]
    frame = SamplingFrame.of([2000, 3000, 1000], [0, 0, 0], endless=[True] * 3)
    truth = TwoStageTruth(values, images, frame)
    played = play(truth, StopRule(0.02), campaigns, seed=images)
    assert played.met.mean() > 0.99
    least = binom.ppf(1e-4, campaigns, 0.95) / campaigns
    assert played.covered(truth).mean(0).min() >= least
    assert played.always.mean(0).min() >= least  # all looks together
    off = played.rate.mean(0) - truth.rates
    assert (np.abs(off) < 0.01 * truth.rates + 3.5 * played.rate.std(0, ddof=1) / np.sqrt(campaigns)).all()
