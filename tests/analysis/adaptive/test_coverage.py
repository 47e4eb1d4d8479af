"""How often intervals hold in campaigns that are played out on strata of known rates, rare events included.

Judged by the binomial bound: intervals that hold 95 % of the time do so at least this often in all but one of 10,000
such simulations.
"""

import numpy as np
import pytest
from scipy.stats import binom

from testbed.analysis.adaptive.sequential import StopRule
from testbed.analysis.adaptive.simulation import SimulatedTruth, play
from testbed.analysis.stratified import SamplingFrame, StratumTally, domain_rates

FEW, MANY = 100, 1000


def least(campaigns):
    return binom.ppf(1e-4, campaigns, 0.95) / campaigns


def rare():
    """Two blocks of 20 strata: most never fail, some once in 1,000 to 10,000 faults, one always."""
    population = [200_000] * 8 + [50_000] * 4 + [5_000] * 6 + [1_500, 500]
    rates = np.array([0] * 8 + [1e-4, 3e-4, 1e-3, 1e-3] + [0, 0, 1e-3, 0.02, 0.2, 0.5] + [1, 0.9])
    alike = ["low"] * 12 + ["high"] * 6 + ["top"] * 2
    second = rates * np.r_[np.ones(12), np.full(6, 0.3), 1, 1]
    return SamplingFrame.of(population * 2, np.repeat([0, 1], 20), alike * 2), np.r_[rates, second]


def blocks(seed=0):
    """Four blocks of 14 sites with five classes of bits each, as of a transformer: top exponent bits fail half of the
    time, most bits hardly ever; sites and blocks differ."""
    rng = np.random.default_rng(seed)
    bits = {"sign": (1, 0.01), "top": (1, 0.5), "exponent": (7, 0.03), "high": (11, 1e-4), "low": (12, 0)}
    rows = [
        (block, name, width * 16 * elements, min(1, rate * rng.lognormal(0, 1)))
        for block in range(4)
        for elements in rng.choice([38_000, 114_000, 150_000], 14)
        for name, (width, rate) in bits.items()
    ]
    block, name, population, rates = zip(*rows, strict=True)
    return SamplingFrame.of(population, block, name), np.array(rates)


def equal(rate, strata=20):
    """Strata that differ in nothing, though nobody knows: chance alone must not steer."""
    return SamplingFrame.of(np.full(strata, 100_000), np.zeros(strata)), np.full(strata, rate)


def heavy():
    """Five sixths of the population fail once in 100 faults, some of the others often."""
    frame = SamplingFrame.of([1_000_000] + [10_000] * 20, np.zeros(21), np.r_[0, np.repeat([1, 2], 10)])
    return frame, np.r_[0.01, np.zeros(10), np.full(10, 0.3)]


def small():
    """Strata of 30 to 900 faults, of which many are drawn completely."""
    sizes, rates = [30, 60, 120, 400, 900], [0.5, 0, 0.1, 0.02, 0.3]
    return SamplingFrame.of(sizes * 6, np.repeat([0, 1], 15), list(range(5)) * 6), np.array(rates * 6)


POPULATIONS = {
    "rare": (rare(), 0.005),
    "blocks": (blocks(), 0.01),
    "equal, 2 %": (equal(0.02), 0.01),
    "equal, 10 %": (equal(0.1), 0.02),
    "one stratum": (equal(0.01, 1), 0.01),
    "heavy": (heavy(), 0.01),
    "small": (small(), 0.03),
}


def check(played, truth, campaigns):
    assert played.covered(truth).mean(0).min() >= least(campaigns)
    assert played.always.mean(0).min() >= least(campaigns)  # all looks together
    assert played.met.mean() > 0.99


def guess(frame, rates, proxy):
    """The strata as a proxy of their rates makes them alike, and its guesses of their standard deviations."""
    score = {"good": rates, "wrong": -rates}[proxy] + 0.1 * np.random.default_rng(1).random(len(rates))
    rank = score.argsort().argsort() / len(rates)
    return SamplingFrame.of(frame.population, frame.domain, (rank * 5).astype(int)), rank


@pytest.mark.parametrize("name", POPULATIONS)
def test_adaptive_campaigns_cover_at_their_last_look_and_at_all_of_them(name):
    (frame, rates), margin = POPULATIONS[name]
    truth = SimulatedTruth.of(frame, rates)
    check(play(truth, StopRule(margin), FEW), truth, FEW)


@pytest.mark.parametrize("proxy", ["good", "wrong"])
def test_a_proxy_steers_and_changes_nothing_else(proxy):
    frame, rates = blocks()
    steered, deviation = guess(frame, rates, proxy)
    truth = SimulatedTruth.of(steered, rates)
    check(play(truth, StopRule(0.01), FEW, deviation=deviation), truth, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.parametrize("spending", ["obrien-fleming", "pocock"])
@pytest.mark.parametrize("finer", [1, 2])
def test_a_thousand_adaptive_campaigns_cover(name, spending, finer):
    (frame, rates), margin = POPULATIONS[name]
    truth = SimulatedTruth.of(frame, rates)
    check(play(truth, StopRule(margin / finer, spending=spending), MANY, seed=finer), truth, MANY)


@pytest.mark.slow
@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.parametrize("proxy", ["good", "wrong"])
def test_a_thousand_steered_campaigns_cover(name, proxy):
    (frame, rates), margin = POPULATIONS[name]
    steered, deviation = guess(frame, rates, proxy)
    truth = SimulatedTruth.of(steered, rates)
    check(play(truth, StopRule(margin), MANY, seed=7, deviation=deviation), truth, MANY)


@pytest.mark.parametrize("campaigns", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("per_stratum", [3, 40])
@pytest.mark.parametrize("name", POPULATIONS)
def test_samples_of_a_fixed_size_cover(name, per_stratum, campaigns):
    (frame, rates), _ = POPULATIONS[name]
    truth, rng = SimulatedTruth.of(frame, rates), np.random.default_rng(0)
    n = np.broadcast_to(np.minimum(frame.population, per_stratum), (campaigns, len(frame)))
    found = domain_rates(frame, truth.draw(rng, n, StratumTally.empty(*n.shape)), 0.95)
    held = (found.low <= truth.rates + 1e-12) & (truth.rates <= found.high + 1e-12)
    assert held.mean(0).min() >= least(campaigns)


@pytest.mark.slow
def test_looking_without_spending_does_not_cover():
    """What the spending is for: the plain interval after each round, held to be true at all of them."""
    truth = SimulatedTruth.of(*equal(0.3, 1))
    rng, tally = np.random.default_rng(0), StratumTally.empty(MANY, 1)
    always = np.ones((MANY, 1), bool)
    for _ in range(10):
        tally = tally + truth.draw(rng, np.maximum(tally.n * 0.5, 50).round(), tally)
        now = domain_rates(truth.frame, tally, 0.95)
        always &= (now.low <= truth.rates) & (truth.rates <= now.high)
    assert always.mean() < least(MANY) - 0.05
