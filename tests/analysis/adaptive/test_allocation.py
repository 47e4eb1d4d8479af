import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import norm

from testbed.analysis.adaptive.allocation import (
    Rest,
    cheapest_allocation,
    first_allocation,
    half_width,
    neyman,
    smallest_sample,
    smoothed_variances,
    whole_numbers,
)
from testbed.analysis.adaptive.pace import Pace, pace_of
from testbed.analysis.adaptive.rule import StopRule
from testbed.analysis.stats import OneMore, clopper_pearson, weighted_interval
from testbed.analysis.stratified import SamplingFrame, StratumTally

Z = norm.isf(0.025)


@pytest.fixture(params=[0.0, 0.1])
def pace(request: pytest.FixtureRequest) -> Pace:
    return pace_of(StopRule(0.01, relative=request.param))


def test_neyman_has_the_least_variance_of_all_allocations_of_as_many_faults():
    frame, deviation = SamplingFrame.of([100, 300, 600], [0, 0, 0]), np.array([0.5, 0.1, 0.2])
    found = neyman(frame, deviation, 90)
    best = minimize(
        lambda n: (frame.share**2 * deviation**2 / n).sum() * 1e4,
        [30, 30, 30],
        constraints={"type": "eq", "fun": lambda n: n.sum() - 90},
        bounds=[(1, 90)] * 3,
    )
    np.testing.assert_allclose(found, best.x, rtol=1e-2)
    assert found.sum() == pytest.approx(90)


@pytest.mark.parametrize("margin", [0.05, 0.01, 0.002])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_fewer_faults_than_the_smallest_sample_leave_room_for_more_than_the_margin(margin, confidence):
    n = smallest_sample(margin, confidence)
    assert clopper_pearson(0, np.ceil(n), confidence).high <= 2 * margin
    assert clopper_pearson(0, np.ceil(n) - 1, confidence).high > 2 * margin


# --- guesses ---------------------------------------------------------------------------------------------------------


def test_no_class_is_without_variance_though_it_never_failed(pace: Pace):
    frame = SamplingFrame.of([1000, 1000, 1000], [0, 0, 0])
    guess = smoothed_variances(frame, StratumTally.of_events([20, 20, 20], [0, 20, 0]), pace)
    assert (guess > 1e-3).all()


def test_a_class_drawn_little_from_is_taken_to_be_as_those_alike(pace: Pace):
    """Two blocks with two classes each; the second block was hardly drawn from, but its classes are told by the first's."""
    frame = SamplingFrame.of([1000] * 4, [0, 0, 1, 1], ["a top", "low"] * 2)  # classes are in the order of labels
    guess = smoothed_variances(frame, StratumTally.of_events([400, 400, 3, 3], [200, 0, 0, 0]), pace)
    assert guess[2] > 0.1
    assert guess[3] < 0.02


def test_a_class_drawn_much_from_is_taken_for_what_it_is(pace: Pace):
    """Nothing like the others that are called alike."""
    frame = SamplingFrame.of([10**6] * 4, [0, 1, 2, 3], ["same"] * 4)
    guess = smoothed_variances(frame, StratumTally.of_events([1000] * 4, [0, 0, 0, 400]), pace)
    assert guess[3] == pytest.approx(0.24, abs=0.01)
    assert (guess[:3] < 0.01).all()


def test_classes_that_differ_by_chance_alone_are_guessed_alike(pace: Pace):
    """So that chance does not steer: with 20 faults of 5 % each, some show 0 events and some 4."""
    rng = np.random.default_rng(0)
    frame = SamplingFrame.of(np.full(40, 10**6), np.zeros(40))
    guess = smoothed_variances(frame, StratumTally.of_events(np.full(40, 20), rng.binomial(20, 0.05, 40)), pace)
    assert guess.max() / guess.min() < 3
    assert guess.mean() == pytest.approx(0.05 * 0.95, rel=0.35)


def test_many_campaigns_at_once_are_guessed_as_one_by_one(pace: Pace):
    rng = np.random.default_rng(1)
    frame = SamplingFrame.of(rng.integers(50, 5000, 12), np.arange(12) % 3, np.arange(12) // 3)
    n = rng.integers(2, 40, (5, 12))
    tally = StratumTally.of_events(n, rng.binomial(n, 0.2))
    together = smoothed_variances(frame, tally, pace)
    for i in range(5):
        alone = smoothed_variances(frame, StratumTally(tally.n[i], tally.total[i], tally.squares[i]), pace)
        np.testing.assert_allclose(together[i], alone)


# --- how wide, and with how many -------------------------------------------------------------------------------------


@given(st.floats(0.001, 0.5), st.floats(50, 5000), st.floats(0.05, 1.5))
def test_the_formula_is_near_the_interval(rate, size, heavier):
    """With ``size`` faults of equal weight, or half the variance and one heavier fault."""
    variance, heaviest = rate * (1 - rate) / size, heavier / size
    low, high, _ = weighted_interval(rate, variance, OneMore(heaviest, 1 - rate), OneMore(heaviest, rate), 0.95)
    found = half_width(np.array(rate), np.array(variance), np.array(heaviest), Z)
    assert found == pytest.approx((high - low) / 2, rel=0.25)


@pytest.mark.parametrize("margin", [0.01, 0.003])
def test_the_cheapest_allocation_gives_the_margin_and_beats_plain_designs(margin):
    frame = SamplingFrame.of([20_000, 280_000, 100_000, 600_000], [0, 0, 0, 0])
    rates = np.array([0.5, 0.05, 0.01, 1e-5])
    spread, rate = rates * (1 - rates), np.array([(frame.share * rates).sum()])
    rest = Rest.after(frame, np.zeros(4))
    wanted, count = cheapest_allocation(frame, rest, rate, spread, np.array([margin]), Z, surprises=2)
    without, _ = cheapest_allocation(frame, rest, rate, spread, np.array([margin]), Z)
    assert count[0] == pytest.approx(wanted.sum())

    def width(n, more=0):
        weight = frame.share / n
        event, seen = OneMore(weight.max(), 1), (frame.share * weight * spread).sum()
        low, high, _ = weighted_interval(
            rate[0] + more * weight.max(), seen + more * weight.max() ** 2, event, OneMore(1e-9, 1), 0.95
        )
        return (high - low) / 2

    assert width(wanted, more=2) == pytest.approx(margin, rel=0.15)  # with two events more than expected
    assert width(wanted) <= margin
    assert width(without) == pytest.approx(margin, rel=0.15)
    assert without.sum() < wanted.sum()
    proportional = frame.share * wanted.sum()
    assert width(proportional, more=2) > 1.05 * margin
    by_neyman = neyman(frame, np.sqrt(spread), wanted.sum())
    assert width(np.maximum(by_neyman, 0.1), more=2) > 1.05 * margin


def test_every_stratum_gets_a_fault_and_none_gives_more_than_it_has():
    frame = SamplingFrame.of([30, 10**6, 3], [0, 0, 0])
    rest = Rest.after(frame, np.array([25.0, 7, 0]))
    wanted, _ = cheapest_allocation(frame, rest, np.array([0.4]), np.array([0.25, 0.24, 1e-9]), np.array([0.01]), Z)
    assert 1 <= wanted[0] <= 5
    assert wanted[1] > 5000
    assert wanted[2] == 1


def test_rounds_before_leave_so_much_less_to_draw_for_and_may_leave_too_much():
    """A half of the weight is still to be given: with a quarter of the variance allowed used up, a third of the faults do."""
    frame, rate, spread = SamplingFrame.of([10**9], [0]), np.array([0.3]), np.array([0.21])
    margin = np.array([0.01])
    afresh, _ = cheapest_allocation(frame, Rest.after(frame, np.zeros(1)), rate, spread, margin, Z)
    allowed = (margin / Z) ** 2
    half = Rest(np.array([0.5]), frame.drawable, allowed / 4, np.zeros(1))
    wanted, _ = cheapest_allocation(frame, half, rate, spread, margin, Z)
    assert wanted[0] / afresh[0] == pytest.approx(1 / 3, rel=0.05)
    _, count = cheapest_allocation(
        frame, Rest(np.array([0.5]), frame.drawable, 2 * allowed, np.zeros(1)), rate, spread, margin, Z
    )
    assert np.isinf(count).all()


def test_domains_are_allocated_to_apart():
    frame = SamplingFrame.of([1000, 9000, 5000, 5000], [0, 0, 1, 1])
    spread, rate, margin = np.array([0.25, 0.01, 0.04, 0.09]), np.array([0.06, 0.07]), np.array([0.02, 0.05])
    both, _ = cheapest_allocation(frame, Rest.after(frame, np.zeros(4)), rate, spread, margin, Z)
    for domain in (0, 1):
        mine = frame.domain == domain
        part = SamplingFrame.of(frame.population[mine], [0, 0])
        rest = Rest.after(part, np.zeros(2))
        alone, _ = cheapest_allocation(part, rest, rate[[domain]], spread[mine], margin[[domain]], Z)
        np.testing.assert_allclose(both[mine], alone)


# --- whole numbers ---------------------------------------------------------------------------------------------------


def test_the_first_round_draws_from_every_stratum_and_mostly_in_proportion():
    frame = SamplingFrame.of([1, 10, 1000, 9000], [0, 0, 0, 0])
    assert first_allocation(frame, 2, 100).tolist() == [1, 2, 9, 89]
    steered = first_allocation(frame, 2, 100, np.array([1, 1, 1, 0.01]))
    assert steered[2] > 40
    assert steered[3] >= 44


@given(st.integers(0, 2**32))
def test_whole_numbers_add_up_per_class(seed):
    rng = np.random.default_rng(seed)
    label = np.unique(rng.integers(0, 3, int(rng.integers(1, 15))), return_inverse=True)[1]
    wanted = rng.exponential(2, (2, len(label)))
    found = whole_numbers(wanted, label)
    assert (found == np.round(found)).all()
    assert (np.abs(found - wanted) < 1 + 1e-9).all()
    for row in range(2):
        assert (np.abs(np.bincount(label, found[row]) - np.bincount(label, wanted[row])) < 1 + 1e-6).all()
