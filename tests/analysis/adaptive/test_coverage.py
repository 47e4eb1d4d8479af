"""How often intervals hold in campaigns that are played out on strata of known rates, rare events included.

Judged by the binomial bound: intervals that hold 95 % of the time do so at least this often in all but one of 10,000
such simulations.
"""

import numpy as np
import pytest
from benchmarks.populations import POPULATIONS, all_known, blocks, equal, guided
from scipy.stats import binom

from testbed.analysis.adaptive.rule import StopRule
from testbed.analysis.adaptive.simulation import SimulatedTruth, play
from testbed.analysis.stratified import StratumTally, domain_rates

FEW, MANY = 100, 1000


def least(campaigns):
    return binom.ppf(1e-4, campaigns, 0.95) / campaigns


def check(played, truth, campaigns):
    assert played.covered(truth).mean(0).min() >= least(campaigns)
    assert played.always.mean(0).min() >= least(campaigns)  # all looks together
    assert played.met.mean() > 0.99


@pytest.mark.parametrize("name", POPULATIONS)
def test_adaptive_campaigns_cover_at_their_last_look_and_at_all_of_them(name):
    (frame, rates), margin = POPULATIONS[name]
    truth = SimulatedTruth.of(frame, rates)
    check(play(truth, StopRule(margin), FEW), truth, FEW)


@pytest.mark.parametrize("proxy", ["good", "wrong"])
def test_a_proxy_steers_and_changes_nothing_else(proxy):
    steered, deviation = guided(blocks(), proxy)
    truth = SimulatedTruth.of(*steered)
    check(play(truth, StopRule(0.01), FEW, deviation=deviation), truth, FEW)


def check_bias(played, truth):
    """By a z test: less than 1 % of the rate, or no more than chance would have it."""
    off = played.rate.mean(0) - truth.rates
    chance = 3.5 * played.rate.std(0, ddof=1) / np.sqrt(len(played.rate))
    assert (np.abs(off) < 0.01 * truth.rates + chance).all(), off / truth.rates


@pytest.mark.parametrize("name", ["one stratum", "heavy", "wrong proxy", "clustered images", "events of 1e-4"])
def test_estimates_are_unbiased_though_faults_go_where_events_were_seen(name):
    known = all_known()[name]
    rule = StopRule(known.floor, relative=0.2) if name == "events of 1e-4" else StopRule(known.margin)
    played = play(known.truth, rule, 300, seed=11, deviation=known.deviation)
    check_bias(played, known.truth)
    check(played, known.truth, 300)


@pytest.mark.slow
@pytest.mark.parametrize("name", all_known())
@pytest.mark.parametrize("relative", [0.0, 0.1])
def test_estimates_of_thousands_of_campaigns_are_unbiased(name, relative):
    """A plain mean over all faults of a stratum is off by 2 to 14 % of the rate here (absolute margins)."""
    known = all_known()[name]
    rule = StopRule(known.floor if relative else known.margin, relative=relative)
    played = play(known.truth, rule, 2 * MANY, seed=5, deviation=known.deviation)
    check_bias(played, known.truth)
    check(played, known.truth, 2 * MANY)


@pytest.mark.parametrize("relative", [0.1, 0.3])
def test_a_relative_margin_is_met_where_it_is_the_wider_one(relative):
    known = all_known()["heavy"]
    played = play(known.truth, StopRule(0.0005, relative=relative), FEW, seed=2)
    half = (played.high - played.low) / 2
    assert (half <= relative * played.rate).all()
    assert (half > 0.5 * relative * played.rate).all()
    check(played, known.truth, FEW)


def test_a_domain_without_an_event_stops_at_the_absolute_floor():
    frame, rates = blocks()
    never = SimulatedTruth.of(frame, np.where(frame.domain == 0, 0, rates))
    played = play(never, StopRule(0.002, relative=0.1), 20, seed=2)
    half = (played.high - played.low) / 2
    assert (played.rate[:, 0] == 0).all()
    assert (half[:, 0] <= 0.002).all()
    assert (half[:, 1:] <= np.maximum(0.002, 0.1 * played.rate[:, 1:])).all()


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
    strata, margin = POPULATIONS[name]
    steered, deviation = guided(strata, proxy)
    truth = SimulatedTruth.of(*steered)
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
