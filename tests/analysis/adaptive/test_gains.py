"""What a design was worth, against the variance of estimates of campaigns that are drawn again and again."""

from __future__ import annotations

import numpy as np

from testbed.analysis.adaptive.gains import design_gains
from testbed.analysis.adaptive.rule import StopRule
from testbed.analysis.adaptive.sequential import Monitor
from testbed.analysis.adaptive.simulation import SimulatedTruth
from testbed.analysis.stratified import SamplingFrame, StratumSample

SIZES = np.array([3e7, 1e7, 1e7, 5e7, 1e7, 2e7])
RATES = np.array([1e-4, 0.9, 0.1, 0.001, 0.5, 0.02])
DOMAIN = np.array([0, 0, 0, 1, 1, 1])
COARSER = np.array([0, 1, 1, 2, 3, 3])  # two strata of each domain, of which one is in two parts
FRAME = SamplingFrame.of(SIZES, DOMAIN)
TRUTH = SimulatedTruth.of(FRAME, RATES)


def spread_of_means(draw: np.ndarray, campaigns: int = 4000) -> np.ndarray:
    """Variance of stratified estimates with so many faults of each stratum."""
    x = np.random.default_rng(1).binomial(draw.astype(int), RATES, (campaigns, len(draw)))
    return np.asarray(FRAME.sums(FRAME.share * x / draw).var(0))


def test_gains_are_the_ratios_of_variances_of_estimates() -> None:
    draw = np.array([40_000.0, 2000, 1500, 20_000, 3000, 900])
    n = FRAME.sums(draw)[DOMAIN]
    x = TRUTH.draw(np.random.default_rng(0), draw[None], Monitor(FRAME, StopRule(0.01)).tally)
    gains = design_gains(FRAME, StratumSample.of_equals(FRAME, x), COARSER)
    p = TRUTH.rates
    uniform = p * (1 - p) / FRAME.sums(draw)
    np.testing.assert_allclose(gains.total, uniform / spread_of_means(draw), rtol=0.15)
    np.testing.assert_allclose(gains.allocation, spread_of_means(FRAME.share * n) / spread_of_means(draw), rtol=0.15)
    mean = np.bincount(COARSER, SIZES * RATES) / np.bincount(COARSER, SIZES)
    share = np.bincount(COARSER, FRAME.share)
    coarse = np.bincount([0, 0, 1, 1], share * mean * (1 - mean)) / FRAME.sums(draw)
    np.testing.assert_allclose(gains.strata, uniform / coarse, rtol=0.1)
    np.testing.assert_allclose(gains.finer, coarse / spread_of_means(FRAME.share * n), rtol=0.15)


def test_a_uniform_sample_gains_nothing_and_one_without_events_tells_nothing() -> None:
    alone = SamplingFrame.of([1e8, 1e8], [0, 1])
    truth = SimulatedTruth.of(alone, [0.3, 0.0])
    x = truth.draw(np.random.default_rng(0), np.full((1, 2), 500.0), Monitor(alone, StopRule(0.01)).tally)
    gains = design_gains(alone, StratumSample.of_equals(alone, x), np.arange(2))
    np.testing.assert_allclose(gains.total[0], 1, rtol=0.01)
    assert np.isnan(gains.total[1])
