from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given
from hypothesis import strategies as st

from testbed.analysis.stats import OneMore, clopper_pearson, weighted_interval, wilson
from testbed.analysis.survey import SurveyDesign, survey_by_group, survey_proportion
from testbed.core.errors import UsageError

# --- the interval ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.95]))
def test_of_a_simple_random_sample_it_is_clopper_pearsons(counts, confidence):
    x, n = counts
    p = x / n
    interval = weighted_interval(p, p * (1 - p) / n, OneMore(1 / n, 1 - p), OneMore(1 / n, p), confidence)
    np.testing.assert_allclose(interval[:2], clopper_pearson(x, n, confidence), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(interval.n_effective, n, rtol=1e-6)


SHARES = st.floats(0, 1)


@given(SHARES, SHARES, st.builds(OneMore, SHARES, SHARES), st.builds(OneMore, SHARES, SHARES))
@example(0.875, 1e-35, OneMore(0, 0), OneMore(0, 0))
@example(0.0, 1.0, OneMore(0, 0), OneMore(0, 0))
@example(0.5, 1e-16, OneMore(0, 0), OneMore(0, 0))
def test_the_limits_always_enclose_the_rate(rate, variance, event, non_event):
    low, high, _ = weighted_interval(rate, variance, event, non_event)
    assert 0 <= low <= rate <= high <= 1


def test_for_rare_events_it_is_fay_and_feuers_gamma_interval():
    """Directly standardised rates: limits are gamma quantiles of mean and variance (y, v) and (y + w, v + w^2)."""
    events, weights = np.array([3, 0, 5]), np.array([2e-6, 5e-6, 1e-6])
    rate, variance, step = (weights * events).sum(), (weights**2 * events).sum(), weights.max()
    low, high, _ = weighted_interval(rate, variance, OneMore(step, 1), OneMore(1e-12, 1))
    expected_low = scipy.stats.gamma.ppf(0.025, rate**2 / variance, scale=variance / rate)
    mean, spread = rate + step, variance + step**2
    np.testing.assert_allclose(high, scipy.stats.gamma.ppf(0.975, mean**2 / spread, scale=spread / mean), rtol=1e-4)
    np.testing.assert_allclose(low, expected_low, rtol=1e-4)


# --- the estimate and its variance -----------------------------------------------------------------------------------


def test_two_strata_by_hand():
    """p = .3 (2/4) + .7 (1/5) = .29;  Var = .09 (1/3)/4 + .49 (.2)/5, with s^2 = n p (1-p) / (n-1)."""
    y = [1, 0, 0, 1, 0, 0, 1, 0, 0]
    stratum = ["a"] * 4 + ["b"] * 5
    result = survey_proportion(y, stratum, [300] * 4 + [700] * 5, range(9))
    assert result.rate == pytest.approx(0.29)
    variance = 0.09 / 3 / 4 + 0.49 * 0.2 / 5
    assert result.standard_error == pytest.approx(np.sqrt(variance))
    assert (result.n_rows, result.n_clusters) == (9, 9)
    inflation = (scipy.stats.t.ppf(0.975, 7) / scipy.stats.t.ppf(0.975, 8)) ** 2
    # One more event or non-event weighs most in b, where 4/5 and 1/5 of the draws could be it: .7/5 x .8 and .3/4 x .5
    event, non_event = OneMore(0.7 / 5, 0.8), OneMore(0.3 / 4, 0.5)
    low, high, _ = weighted_interval(0.29, variance * inflation, event, non_event)
    assert (result.low, result.high) == pytest.approx((low, high))


def influence_oracle(y, stratum, weight, cluster, inside):
    """Rate and standard error of the rows ``inside`` from the rate alone: how it answers to each cluster's weight.

    The infinitesimal jackknife: numerical derivatives by the number of times that a cluster is counted.
    """
    clusters, code = np.unique(cluster, return_inverse=True)

    def rate_with(copies):
        copies = copies[code]
        above = below = 0.0
        for h in np.unique(stratum):
            rows = stratum == h
            scale = weight[rows][0] / copies[rows].sum()
            above += scale * (copies * y)[rows & inside].sum()
            below += scale * copies[rows & inside].sum()
        return above / below

    eye = np.eye(len(clusters)) * 1e-5
    influence = np.array([(rate_with(1 + e) - rate_with(1 - e)) / 2e-5 for e in eye])
    variance = 0.0
    for h in np.unique(stratum):
        own = influence[np.unique(code[stratum == h])]
        variance += len(own) / (len(own) - 1) * ((own - own.mean()) ** 2).sum()
    return rate_with(np.ones(len(clusters))), np.sqrt(variance)


@given(st.integers(0, 2**32 - 1))
def test_the_standard_error_is_that_of_the_linearised_rate(seed):
    rng = np.random.default_rng(seed)
    clusters = rng.integers(2, 5, rng.integers(1, 4))  # per stratum
    stratum_of = np.repeat(np.arange(len(clusters)), clusters)
    cluster = np.repeat(np.arange(len(stratum_of)), rng.integers(1, 5, len(stratum_of)))
    stratum, weight = stratum_of[cluster], rng.uniform(1, 9, len(clusters))[stratum_of[cluster]]
    y, tier = rng.integers(0, 2, len(cluster)), rng.integers(0, 3, len(cluster))
    groups = survey_by_group(y, stratum, weight, cluster, tier)
    assert list(groups) == sorted(set(tier.tolist()))
    for label, result in groups.items():
        inside = tier == label
        rate, error = influence_oracle(y, stratum, weight, cluster, inside)
        assert result.rate == pytest.approx(rate, abs=1e-12)
        assert result.standard_error == pytest.approx(error, abs=1e-6)
        assert (result.n_rows, result.n_clusters) == (inside.sum(), len(np.unique(cluster[inside])))


def sample(seed=0, strata=6, clusters=5, images=3):
    """y, stratum, weight, cluster, image of a small campaign in which faults fail together."""
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(strata * clusters), images)
    stratum = cluster // clusters
    failing = rng.random(strata * clusters) < np.linspace(0.1, 0.7, strata)[np.arange(strata * clusters) // clusters]
    y = failing[cluster] & (rng.random(len(cluster)) < 0.8)
    return y, stratum, rng.uniform(1, 50, strata)[stratum], cluster, np.tile(np.arange(images), strata * clusters)


def test_a_group_of_whole_strata_is_estimated_as_if_it_were_alone():
    y, stratum, weight, cluster, _ = sample()
    together = survey_by_group(y, stratum, weight, cluster, stratum % 2)
    for parity in (0, 1):
        rows = stratum % 2 == parity
        alone = survey_proportion(y[rows], stratum[rows], weight[rows], cluster[rows])
        assert vars(together[parity]) == pytest.approx(vars(alone))


def test_labels_units_and_the_order_of_rows_do_not_matter():
    y, stratum, weight, cluster, _ = sample()
    plain = survey_proportion(y, stratum, weight, cluster)
    order = np.random.default_rng(1).permutation(len(y))
    names = np.array([f"stratum {s}" for s in 9 - stratum])
    other = survey_proportion(y[order], names[order], 7e6 * weight[order], (1000 - 3 * cluster)[order])
    assert vars(other) == pytest.approx(vars(plain))


def test_events_and_non_events_mirror_each_other():
    y, stratum, weight, cluster, _ = sample()
    events, others = (survey_proportion(v, stratum, weight, cluster) for v in (y, ~y))
    assert (others.low, others.rate, others.high) == pytest.approx((1 - events.high, 1 - events.rate, 1 - events.low))


def test_images_that_fail_together_count_once():
    """Eight copies of each row, in the row's cluster: nothing is known better than before."""
    y, stratum, weight, cluster, _ = sample(images=1)
    once = survey_proportion(y, stratum, weight, cluster)
    y8, stratum8, weight8, cluster8 = (np.repeat(v, 8) for v in (y, stratum, weight, cluster))
    eight = survey_proportion(y8, stratum8, weight8, cluster8)
    assert eight.n_rows == 8 * once.n_rows
    assert vars(eight) | {"n_rows": 0} == pytest.approx(vars(once) | {"n_rows": 0})
    unclustered = survey_proportion(y8, stratum8, weight8, np.arange(8 * len(y)))
    assert unclustered.high - unclustered.low < 0.5 * (eight.high - eight.low)


def test_strata_that_differ_make_the_interval_narrower():
    """Five strata that always fail and five that never do: the rate is known almost as well as if it were counted."""
    stratum = np.repeat(np.arange(10), 20)
    y = stratum < 5
    stratified = survey_proportion(y, stratum, np.ones(200), np.arange(200))
    pooled = wilson(100, 200)
    assert stratified.rate == 0.5
    assert stratified.standard_error == pytest.approx(0)
    assert 0.005 < stratified.high - stratified.low < 0.3 * (pooled.high - pooled.low)


@pytest.mark.parametrize(("value", "images"), [(0, 1), (0, 32), (1, 1), (1, 32)])
def test_without_an_event_the_interval_is_the_exact_one_of_the_clusters(value, images):
    cluster = np.repeat(np.arange(100), images)
    result = survey_proportion(np.full(100 * images, value), cluster // 20, np.ones(100 * images), cluster)
    low, high = clopper_pearson(100 * value, 100)
    assert (result.low, result.rate, result.high) == pytest.approx((low, value, high))
    assert result.n_effective == pytest.approx(100)


@pytest.mark.parametrize("seed", range(10))
def test_what_always_fails_has_a_rate_of_exactly_one(seed):
    weight = np.random.default_rng(seed).uniform(0, 1, 7)
    result = survey_proportion(np.ones(28), np.repeat(np.arange(7), 4), np.repeat(weight, 4), np.arange(28))
    assert (result.rate, result.high) == (1, 1)
    assert result.low < 1


def test_without_an_event_the_heaviest_cluster_sets_the_limit():
    """Nothing was seen in 10 faults that stand for 99 % of the population: they alone leave room for 26 %."""
    stratum = np.repeat([0, 1], [10, 1000])
    result = survey_proportion(np.zeros(1010), stratum, np.array([99, 1])[stratum], np.arange(1010))
    assert result.rate == 0
    assert result.high >= 0.99 * clopper_pearson(0, 10).high


# --- strata of one cluster, finite populations ---------------------------------------------------------------------


def test_strata_of_one_cluster_borrow_the_variance_of_those_like_them():
    """Collapsed strata: ``L/(L-1) sum (t_h - W_h / W_g t_g)^2`` with t_h the totals of the L strata of one label."""
    y, weight, like = np.array([1, 0, 1, 0, 0, 0]), np.array([1.0, 2, 3, 1, 1, 2]), np.array([0, 0, 0, 1, 1, 1])
    one = np.arange(6)
    result = SurveyDesign(one, weight, one, collapse=like).estimate(y)
    totals = weight * y
    variance = 0.0
    for label in (0, 1):
        own = like == label
        variance += 3 / 2 * ((totals - weight / weight[own].sum() * totals[own].sum())[own] ** 2).sum()
    assert result.rate == pytest.approx(0.4)
    assert result.standard_error == pytest.approx(np.sqrt(variance) / weight.sum())
    # Pooling what is not alike can only be told by the difference between the labels.
    assert SurveyDesign(one, weight, one).estimate(y).standard_error > result.standard_error


def test_a_stratum_of_one_cluster_that_nothing_is_like_is_compared_with_the_group():
    y, stratum = np.array([1, 0, 1, 1]), np.array([0, 0, 0, 1])
    result = SurveyDesign(stratum, np.ones(4), np.arange(4)).estimate(y)
    rate = (2 / 3 + 1) / 2
    variance = (3 / 2 * (2 / 3 * 1 / 3) / 3 + (1 - rate) ** 2) / 4
    assert result.rate == pytest.approx(rate)
    assert result.standard_error == pytest.approx(np.sqrt(variance))


def test_leftovers_of_different_labels_are_pooled():
    y, one = np.array([1, 0]), np.arange(2)
    different = SurveyDesign(one, np.ones(2), one, collapse=one).estimate(y)
    assert different == SurveyDesign(one, np.ones(2), one).estimate(y)
    assert different.standard_error == pytest.approx(0.5)


def test_a_single_cluster_tells_next_to_nothing():
    result = survey_proportion(np.ones(50), np.zeros(50), np.ones(50), np.zeros(50))
    assert (result.low, result.high) == pytest.approx((0.025, 1))


def test_what_was_drawn_completely_is_known():
    y, stratum = np.array([1, 0, 0, 1, 0, 0]), np.array([0, 0, 0, 1, 1, 1])
    census = SurveyDesign(stratum, np.full(6, 3), np.arange(6), finite_population=True).estimate(y)
    assert (census.low, census.rate, census.high) == pytest.approx((1 / 3, 1 / 3, 1 / 3), abs=1e-12)
    assert census.n_effective == 6
    half = SurveyDesign(stratum, np.full(6, 6), np.arange(6), finite_population=True).estimate(y)
    infinite = SurveyDesign(stratum, np.full(6, 6), np.arange(6)).estimate(y)
    assert half.standard_error == pytest.approx(infinite.standard_error * np.sqrt(1 / 2))
    assert infinite.low < half.low < half.high < infinite.high


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": [1, 2, 1, 1]}, "a stratum has two weights"),
        ({"weight": [0, 0, 1, 1]}, "a finite number above 0"),
        ({"weight": [np.inf, np.inf, 1, 1]}, "a finite number above 0"),
        ({"cluster": [0, 1, 1, 2]}, "a cluster is in two strata"),
        ({"collapse": [0, 1, 0, 0]}, "a stratum has two collapse labels"),
        ({"finite_population": True}, "more clusters were drawn"),
        ({"stratum": [], "weight": [], "cluster": []}, "no rows"),
    ],
)
def test_what_is_no_design_is_refused(change, message):
    design = {"stratum": [0, 0, 1, 1], "weight": [1, 1, 1, 1], "cluster": [0, 1, 2, 3]}
    with pytest.raises(UsageError, match=message):
        SurveyDesign(**design | change)


def test_outcomes_that_are_not_zero_or_one_are_refused():
    design = SurveyDesign([0, 0], [1, 1], [0, 1])
    for y in ([0, 2], [0, np.nan], [0, 1, 1]):
        with pytest.raises(ValueError, match="a 0 or a 1 for each row"):
            design.estimate(y)
    with pytest.raises(ValueError, match="3 group labels were given for 2 rows"):
        design.domains([0, 1, 1])
    with pytest.raises(ValueError, match="one element per row"):
        SurveyDesign([0, 0], [1], [0, 1])


# --- coverage --------------------------------------------------------------------------------------------------------

REPLICATIONS = 500
# A 95 % interval covers this often or more in all but one of 10,000 such simulations.
LEAST = scipy.stats.binom.ppf(1e-4, REPLICATIONS, 0.95) / REPLICATIONS
STRATA = 30
SKEWED = np.random.default_rng(5).lognormal(0, 1.2, STRATA)
MIXED = np.r_[np.zeros(10), np.ones(10), np.linspace(0.1, 0.9, 10)]

SCENARIOS: dict[str, tuple[Any, Any, Any, int, float]] = {
    "one stratum": ([1], 40, [0.1], 1, 0),
    "equal strata": (np.ones(STRATA), 10, np.full(STRATA, 0.2), 1, 0),
    "unequal weights": (SKEWED, 10, np.full(STRATA, 0.1), 1, 0),
    "unequal weights, rare": (SKEWED, 20, np.full(STRATA, 0.005), 1, 0),
    "unequal weights and rates": (SKEWED, 8, np.linspace(0, 0.8, STRATA) ** 3, 1, 0),
    "weights over three decades": (np.geomspace(1, 1000, 10), 50, np.full(10, 0.01), 1, 0),
    "most strata certain": (np.ones(STRATA), 6, MIXED, 1, 0),
    "certain strata and rare ones": (np.ones(10), 20, np.repeat([1.0, 0.022], 5), 1, 0),
    "two per stratum": (np.ones(STRATA), 2, MIXED, 1, 0),
    "a heavy stratum, few events": ([99, 1], 10, [0.03, 0.5], 1, 0),
    "images fail together": (np.ones(5), 20, [0.01, 0.05, 0.1, 0.3, 0.6], 16, 0.5),
    "images fail together, rare": (np.ones(5), 20, np.full(5, 0.01), 16, 0.5),
    "images fail alone, rare": (np.ones(5), 20, np.full(5, 0.005), 16, 0.0),
    "clusters, unequal weights": ([1, 3, 10, 30, 100], 20, [0.4, 0.2, 0.1, 0.05, 0.02], 16, 0.3),
}


def simulate(weights, clusters, rates, images, correlation, seed=0):
    """(replication, y, stratum, weight, cluster) of samples that share no stratum; faults are beta-binomial."""
    rng = np.random.default_rng(seed)
    rates, strata = np.asarray(rates, float), len(rates)
    stratum = np.repeat(np.arange(strata * REPLICATIONS), clusters)
    own = rates[stratum % strata]
    if correlation:
        size = 1 / correlation - 1
        own = rng.beta(own * size, (1 - own) * size)
    cluster = np.repeat(np.arange(len(stratum)), images)
    y = rng.random(len(cluster)) < own[cluster]
    stratum = stratum[cluster]
    return stratum // strata, y, stratum, np.asarray(weights, float)[stratum % strata], cluster


def coverage(estimates, truth):
    return np.mean([e.low <= truth <= e.high for e in estimates.values()])


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_interval_covers_the_population_rate(scenario):
    weights, _, rates, _, _ = SCENARIOS[scenario]
    replication, y, stratum, weight, cluster = simulate(*SCENARIOS[scenario])
    assert (
        coverage(survey_by_group(y, stratum, weight, cluster, replication), np.average(rates, weights=weights)) >= LEAST
    )


@pytest.mark.parametrize("scenario", ["unequal weights and rates", "images fail together"])
def test_a_pooled_interval_does_not(scenario):
    """What the simulation is for: the rows of a stratified, clustered sample are no simple random sample."""
    weights, _, rates, _, _ = SCENARIOS[scenario]
    replication, y, *_ = simulate(*SCENARIOS[scenario])
    low, high = wilson(np.bincount(replication, y), np.bincount(replication))
    truth = np.average(rates, weights=weights)
    assert np.mean((low <= truth) & (truth <= high)) < LEAST - 0.05


@pytest.mark.parametrize(
    ("scenario", "most"),
    [
        ("equal strata", 1.1),
        ("most strata certain", 1.2),
        ("images fail together", 1.2),
        ("images fail alone, rare", 1.7),  # few events: an exact interval is wider than the normal one
    ],
)
def test_the_interval_is_not_much_wider_than_it_must_be(scenario, most):
    weights, clusters, rates, images, correlation = SCENARIOS[scenario]
    weights, rates = np.asarray(weights) / np.sum(weights), np.asarray(rates)
    design_effect = (1 + (images - 1) * correlation) / images
    error = np.sqrt((weights**2 * rates * (1 - rates) / clusters).sum() * design_effect)
    replication, y, stratum, weight, cluster = simulate(*SCENARIOS[scenario])
    widths = [e.high - e.low for e in survey_by_group(y, stratum, weight, cluster, replication).values()]
    assert np.median(widths) < most * 2 * 1.96 * error


def test_the_interval_covers_the_rate_of_some_of_the_images_of_each_fault():
    """Tiers inside weight faults: every fault runs the images of both, and the rate of one tier is wanted."""
    replication, y, stratum, weight, cluster = simulate([1, 5, 20], 15, [0.3, 0.1, 0.05], 16, 0.4, seed=3)
    tier = np.arange(len(y)) % 16 >= 12
    groups = survey_by_group(y, stratum, weight, cluster, 2 * replication + tier)
    truth = np.average([0.3, 0.1, 0.05], weights=[1, 5, 20])
    for wanted in (0, 1):
        assert coverage({k: e for k, e in groups.items() if int(str(k)) % 2 == wanted}, truth) >= LEAST


def test_rows_outside_of_every_group_can_be_left_out():
    """The groups' rates are what they are beside a group of all others."""
    random, n = np.random.default_rng(5), 300
    stratum, cluster = np.repeat(np.arange(6), n // 6), np.arange(n) // 2
    design = SurveyDesign(stratum, 10.0 ** (stratum % 3), cluster)
    group, y = random.integers(-1, 3, n), random.integers(0, 2, n)
    inside = group >= 0
    with_others = design.domains(group).estimates(y)
    del with_others[-1]
    assert design.domains(group[inside], inside).estimates(y[inside]) == with_others
    with pytest.raises(ValueError, match="300 group labels were given for"):
        design.domains(group, inside)


def test_one_sided_bounds_are_exact_without_an_event_and_hold_over_strata():
    none = survey_proportion(np.zeros(200), np.zeros(200), np.full(200, 1e6), np.arange(200))
    assert none.high_95 == pytest.approx(1 - 0.05 ** (1 / 200))
    assert none.high_99 == pytest.approx(1 - 0.01 ** (1 / 200))
    rng, held = np.random.default_rng(0), np.zeros(2)
    stratum, campaigns = np.repeat([0, 1], 60), 400
    weight = np.where(stratum == 0, 3e6, 1e6)
    for _ in range(campaigns):
        y = rng.random(120) < np.where(stratum == 0, 0.02, 0.1)
        estimate = survey_proportion(y, stratum, weight, np.arange(120))
        assert estimate.rate <= estimate.high_95 <= estimate.high_99
        held += [estimate.high_95 >= 0.04, estimate.high_99 >= 0.04]
    assert held[0] >= scipy.stats.binom.ppf(1e-4, campaigns, 0.95)
    assert held[1] >= scipy.stats.binom.ppf(1e-4, campaigns, 0.99)
