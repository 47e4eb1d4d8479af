from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.analysis.adaptive.drafting import settled
from testbed.analysis.adaptive.rule import StopRule
from testbed.analysis.adaptive.sequential import Monitor
from testbed.analysis.adaptive.simulation import SimulatedTruth, faults_needed, play
from testbed.analysis.adaptive.spending import critical_values
from testbed.analysis.stats import leveugle
from testbed.analysis.stratified import SamplingFrame, StratumTally, sample_rates
from testbed.core.errors import UsageError

FRAME = SamplingFrame.of([20_000, 40_000, 300_000] * 3, np.repeat([0, 1, 2], 3), ["top", "mid", "low"] * 3)
TRUTH = SimulatedTruth.of(FRAME, [0.6, 0.05, 1e-4, 0.3, 0.1, 0, 0, 0, 0])


def rounds(truth, rule, seed=0, campaigns=1):
    """The monitor after each round."""
    monitor, rng = Monitor(truth.frame, rule, campaigns), np.random.default_rng(seed)
    while monitor.open.any():
        added, was_open = monitor.additions(), monitor.open.copy()
        before = monitor.tally
        monitor.observe(truth.draw(rng, added, before))
        yield monitor, added, was_open, before


def test_it_goes_on_until_every_domain_is_known_to_within_the_margin():
    for monitor, *_ in rounds(TRUTH, StopRule(0.02)):
        width = (monitor.high - monitor.low) / 2
        assert (monitor.open | (width <= 0.02)).all()
        assert not (monitor.open & settled(monitor.rounds) & (width <= 0.02)).any()  # no round is to come
    assert monitor.met.all()
    assert not monitor.open.any()


def test_a_domain_that_is_closed_gets_no_more_faults_and_keeps_its_interval():
    kept: dict[Any, tuple[float, float, float]] = {}
    for monitor, added, was_open, _ in rounds(TRUTH, StopRule(0.005)):
        closed = ~was_open[0]
        assert (added[0][closed[FRAME.domain]] == 0).all()
        for domain in np.flatnonzero(~monitor.open[0]):
            now = (monitor.rate[0, domain], monitor.low[0, domain], monitor.high[0, domain])
            assert kept.setdefault(domain, now) == now
    assert len(kept) == 3


def test_the_first_round_draws_at_least_the_pilot_from_every_stratum():
    for pilot in (1, 3, 50):
        assert Monitor(FRAME, StopRule(0.2, pilot=pilot)).additions().min() == pilot


@pytest.mark.parametrize("growth", [1.5, 2.0, 4.0])
def test_no_domain_grows_faster_than_asked_or_slower_than_a_tenth(growth):
    for monitor, added, was_open, before in rounds(TRUTH, StopRule(0.004, growth=growth)):
        if monitor.looks > 1:
            factor = 1 + FRAME.sums(added) / FRAME.sums(before.n)
            strata = 3
            assert (factor <= growth + strata / FRAME.sums(before.n)).all()
            assert (factor[was_open] >= 1.1).all()


@given(st.integers(9, 20_000))
def test_no_more_faults_are_drawn_than_may_be_and_the_last_look_takes_what_error_is_left(most):
    monitor = play(TRUTH, StopRule(0.003, max_faults=most), 1, seed=most)
    assert monitor.faults[0] <= most
    if not monitor.met.all():
        assert monitor.faults[0] == most


def test_the_last_look_of_a_campaign_that_may_not_go_on_spends_all_of_the_error():
    for rule in (StopRule(0.003, max_looks=2), StopRule(0.003, max_faults=700)):
        for monitor, *_ in rounds(TRUTH, rule):  # noqa: B007
            pass
        assert not monitor.met.any()
        assert all(looks.spent[-1] == pytest.approx(0.05) for looks in monitor.history[0])


def test_a_margin_that_is_just_missed_costs_no_look() -> None:
    """So a domain that is opened again is closed at the confidence that it was to have at first."""
    frame = SamplingFrame.of([10**7] * 8, np.arange(8) // 2)
    rule = StopRule(0.0005, relative=0.1)
    monitor = Monitor(frame, rule, campaigns=40)
    truth = SimulatedTruth.of(frame, np.tile([0.001, 0.06], 4))
    rng = np.random.default_rng(1)
    missed = 0
    while monitor.open.any():
        monitor.observe(truth.draw(rng, monitor.additions(), monitor.tally))
        missed += int((settled(monitor.rounds) & monitor.open).sum())
    assert missed >= 3
    assert monitor.met.all()
    times = [time for campaign in monitor.history for looks in campaign for time in looks.times]
    assert not [time for time in times if 0.75 < time < 1]
    first = [looks.times for campaign in monitor.history for looks in campaign if sum(t >= 1 for t in looks.times) == 1]
    assert len(first) == 160
    assert monitor.level.max() < rule.aimed_confidence + 0.02


def test_intervals_are_as_sure_as_the_error_spent_allows():
    rule = StopRule(0.01)
    for monitor, _, was_open, _ in rounds(TRUTH, rule, seed=4):
        for domain in np.flatnonzero(was_open[0]):
            looks = monitor.history[0][domain]
            assert np.all(np.diff(looks.times) > 0)
            assert np.all(np.diff(looks.spent) >= 0)
            assert looks.spent[-1] <= 0.05
            critical = critical_values(looks.times, looks.spent)[-1]
            wanted = sample_rates(FRAME, monitor.rounds.sample(), monitor.level)
            if monitor.rate[0, domain] == wanted.rate[0, domain]:
                assert monitor.level[0, domain] == pytest.approx(1 - 2 * (1 - _phi(critical)))
                assert monitor.low[0, domain] == wanted.low[0, domain]


def _phi(z):
    from scipy.stats import norm

    return norm.cdf(z)


def test_a_small_domain_is_counted_completely_and_then_known():
    truth = SimulatedTruth.of(SamplingFrame.of([30, 50], [0, 0]), [0.5, 0.1])
    (played,) = [play(truth, StopRule(0.001), 1)]
    assert played.faults[0] == 80
    assert played.met.all()
    assert (played.low[0, 0], played.high[0, 0]) == pytest.approx((20 / 80, 20 / 80), abs=1e-9)


def test_the_next_round_depends_on_the_counts_alone():
    """Not on how many campaigns are followed at once, nor on the order in which rounds were seen before."""
    n = np.array([[40, 60, 90] * 3])
    x = np.array([[20, 5, 0, 11, 7, 0, 0, 0, 0]])
    one, several = Monitor(FRAME, StopRule(0.01)), Monitor(FRAME, StopRule(0.01), 3)
    one.observe(StratumTally.of_events(n, x))
    several.observe(StratumTally.of_events(np.repeat(n, 3, 0), np.repeat(x, 3, 0)))
    assert (several.additions() == one.additions()).all()


def test_faults_go_where_they_are_needed():
    """Half of block 0's variance is in its top bits, which are a twentieth of it; block 2 never fails."""
    for monitor, *_ in rounds(TRUTH, StopRule(0.005)):  # noqa: B007
        pass
    n = monitor.tally.n[0]
    assert n[0] / n[:3].sum() > 3 * FRAME.share[0]
    assert n[6:].sum() < 0.8 * n[:3].sum()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"margin": 0}, "a margin is between 0 and 0.5"),
        ({"margin": 0.5}, "a margin is between 0 and 0.5"),
        ({"confidence": 1}, "a margin is between 0 and 0.5"),
        ({"growth": 1}, "growth must be above 1"),
        ({"pilot": 0}, "pilot, max_looks and max_faults must be 1 or more"),
        ({"spending": "none"}, "unknown spending function"),
    ],
)
def test_rules_that_no_campaign_can_have_are_refused(change, message):
    with pytest.raises(UsageError, match=message):
        StopRule(**{"margin": 0.01} | change)


# --- what it costs ---------------------------------------------------------------------------------------------------


def test_leveugles_faults_are_those_of_the_formula():
    needed = faults_needed(FRAME, np.zeros(9), StopRule(0.01), "leveugle")
    assert needed.per_domain.tolist() == [leveugle(360_000, 0.01)] * 3
    assert needed.mean == needed.low == 3 * leveugle(360_000, 0.01)


def test_strata_and_looks_each_save_faults():
    rates = [0.6, 0.05, 0, 0.3, 0.1, 0, 0, 0, 0]
    found = {
        design: faults_needed(FRAME, rates, StopRule(0.005), design, campaigns=20)
        for design in ("leveugle", "uniform", "adaptive")
    }
    assert found["adaptive"].mean < 0.8 * found["uniform"].mean < 0.4 * found["leveugle"].mean
    assert found["adaptive"].met == found["uniform"].met == 1
    assert found["adaptive"].low <= found["adaptive"].mean <= found["adaptive"].high


def test_an_unknown_design_is_refused():
    with pytest.raises(UsageError, match="unknown design 'best'; known: leveugle, uniform, adaptive"):
        faults_needed(FRAME, np.zeros(9), StopRule(0.01), cast(Any, "best"))
