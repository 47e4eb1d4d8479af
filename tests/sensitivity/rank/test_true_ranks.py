"""Correlations with true rates from counts of events, against known truths and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.rankings import SHAPES, coverage, scored
from scipy.stats import binom, norm, spearmanr

from testbed.core.arrays import Float64s
from testbed.sensitivity.rank.true_ranks import TrueRanks, normal_scores
from testbed.sensitivity.rank.validate import spearmans

PARTS, TRIALS = 12, 400.0


def limits(scores: Float64s, events: Float64s, trials: float = TRIALS) -> Float64s:
    draws = TrueRanks(events, np.full(len(events), trials)).draws(scores, np.random.default_rng(0))
    return np.quantile(spearmans(scores, draws), [0.025, 0.5, 0.975])


def test_many_events_leave_the_measured_correlation() -> None:
    rng = np.random.default_rng(3)
    events, scores = 4000.0 * np.exp(0.4 * np.arange(PARTS)), rng.standard_normal(PARTS)
    low, estimate, high = limits(scores, events, 1e7)
    assert estimate == pytest.approx(spearmanr(scores, events).statistic, abs=0.02)
    assert high - low < 0.05


def test_no_events_leave_what_was_assumed() -> None:
    """Nothing is known: the interval is about as wide as it can be, whatever the score."""
    low, estimate, high = limits(np.arange(PARTS, dtype=float), np.zeros(PARTS))
    assert low < -0.85
    assert high > 0.85
    assert abs(estimate) < 0.1


def test_fewer_events_make_it_wider_and_never_narrower() -> None:
    events = np.array([0, 1, 2, 2, 4, 5, 5, 7, 9, 12, 15, 20.0])
    widths = []
    for more in (0.3, 1, 4, 16):
        low, _, high = limits(np.arange(PARTS, dtype=float), more * events, 16 * TRIALS)
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)


def test_the_score_turned_round_turns_the_interval_round() -> None:
    events, scores = np.array([0, 3, 1, 0, 9, 2, 4, 1, 0, 14, 2, 1.0]), np.random.default_rng(1).standard_normal(PARTS)
    ahead, back = limits(scores, events), limits(-scores, events)
    np.testing.assert_allclose(ahead, -back[::-1], atol=0.06)


def test_noise_is_allowed_for() -> None:
    """A score in the order of the true rates: measured with few events its correlation is low, and the interval knows it."""
    rng, rates = np.random.default_rng(0), SHAPES["close"](36)
    events = rng.poisson(rates / rates.sum() * 100).astype(float)
    scores, true = scored(rates, 0.8, rng)
    low, estimate, high = limits(scores, events, 1000)
    raw = spearmanr(scores, events).statistic
    assert raw < estimate
    assert low <= true <= high


def test_normal_scores_are_quantiles_of_variance_1() -> None:
    scores = normal_scores([30, 10, 20])
    np.testing.assert_allclose(scores / scores[0], [1, -1, 0], atol=1e-12)
    assert np.mean(scores**2) == pytest.approx(1)
    assert scores[0] / norm.ppf(5 / 6) == pytest.approx(np.sqrt(3 / 2) / norm.ppf(5 / 6))
    assert not normal_scores([2, 2, 2]).any()
    tied = normal_scores([1, 1, 5, 7])
    assert tied[0] == tied[1]


def test_the_same_counts_give_the_same_draws() -> None:
    events = np.arange(PARTS, dtype=float)
    first, second = (
        TrueRanks(events, np.full(PARTS, TRIALS)).draws(events, np.random.default_rng(5), 20) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


def test_counts_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to its number of trials"):
        TrueRanks([3.0], [2.0])


def least(campaigns: int, level: float = 0.93) -> float:
    """Intervals that hold so often do so at least this often in all but one of 1,000 such simulations."""
    return float(binom.ppf(1e-3, campaigns, level)) / campaigns


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_intervals_hold_the_true_correlation(correlation: float) -> None:
    """60 events in 12 parts; a bootstrap of the measured rates holds 0.5 in about half of the cases."""
    covered = coverage("lognormal", correlation, 40, parts=12, events=60)
    assert covered.share >= least(40)


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("shape", ["lognormal", "close", "wide", "linear", "exponential"])
def test_intervals_hold_at_36_parts_and_200_events(shape: str, correlation: float) -> None:
    covered = coverage(shape, correlation, 300)
    assert covered.share >= least(300)
    assert covered.estimate == pytest.approx(correlation, abs=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("design", ["strata", "images"])
def test_intervals_hold_for_weighted_and_clustered_faults(design: str, correlation: float) -> None:
    assert coverage("lognormal", correlation, 200, design).share >= least(200)
