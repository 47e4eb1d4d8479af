"""Rounds put together: unbiased whatever they learned from each other, held against every sample that there is."""

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest

from testbed.analysis.adaptive.weighing import WeighedRounds
from testbed.analysis.stratified import SamplingFrame, StratumTally


def after(frame, *rounds):
    """Rounds of (n, events, weight) each."""
    weighed = WeighedRounds.none_yet(frame, 1)
    for n, events, weight in rounds:
        tally = StratumTally.of_events([n], [events])
        weighed = weighed.with_round(tally, np.array([weight], float))
    return weighed


def every_campaign(values, after_none, after_some):
    """(probability, rounds) of all samples of two rounds: two faults of a stratum; then, by what these showed, some more,
    which take the weight that is left."""
    size = len(values)
    for first in combinations(range(size), 2):
        seen = sum(values[i] for i in first)
        more = after_some if seen else after_none
        for second in combinations([i for i in range(size) if i not in first], more):
            yield (
                Fraction(1, comb(size, 2) * comb(size - 2, more)),
                [([2], [seen], [0.3]), ([more], [sum(values[i] for i in second)], [0.7])],
            )


VALUES = [1, 1, 0, 0, 0, 0, 0, 0]


def test_the_estimate_is_unbiased_over_every_sample_and_a_plain_mean_is_not():
    weighed = plain = 0.0
    for chance, rounds in every_campaign(VALUES, 1, 4):
        sample = after(SamplingFrame.of([8], [0]), *rounds).sample()
        weighed += float(chance) * float(sample.mean[0, 0])
        plain += float(chance) * float(sample.tally.total[0, 0] / sample.tally.n[0, 0])
    assert weighed == pytest.approx(0.25, abs=1e-12)
    assert plain < 0.24


def test_the_variances_of_rounds_add_up():
    """They are uncorrelated: over every sample of two rounds of three faults."""
    variance = stated = 0.0
    for chance, rounds in every_campaign(VALUES, 3, 3):
        sample = after(SamplingFrame.of([8], [0]), *rounds).sample()
        variance += float(chance) * (float(sample.mean[0, 0]) - 0.25) ** 2
        stated += float(chance) * float(sample.spread[0, 0]) * float(np.var(VALUES, ddof=1))
    assert stated == pytest.approx(variance, rel=1e-9)


def test_shares_are_what_the_mean_is_made_of_and_add_up():
    frame = SamplingFrame.of([40, 900, 10**12], [0, 0, 1], endless=[False, False, True])
    rounds = after(frame, ([4, 3, 2], [1, 0, 2], [0.1, 0.2, 0.3]), ([0, 50, 7], [0, 9, 3], [0, 0.8, 0.3]))
    shares, sample = rounds.shares(), rounds.sample()
    np.testing.assert_allclose(sum(shares), 1)
    assert shares[1][0, 0] == 0
    means = [draw.total / np.maximum(draw.n, 1) for draw in rounds.draws]
    np.testing.assert_allclose(sample.mean, sum(share * mean for share, mean in zip(shares, means, strict=True)))
    assert rounds.rest[0].tolist() == pytest.approx([0.9, 0, 0.4])
    first = 0.2 + 0.8 * 3 / 900  # Des Raj: what was drawn before is a part of the population that is known
    assert shares[0][0, 1] == pytest.approx(first)


def test_rounds_of_one_weight_per_fault_are_a_plain_sample():
    frame = SamplingFrame.of([10**12], [0])
    found = after(frame, ([20], [3], [0.2]), ([80], [9], [0.8])).sample()
    assert found.mean[0, 0] == pytest.approx(0.12)
    assert found.spread[0, 0] == pytest.approx(1 / 100)
    assert found.heaviest[0, 0] == pytest.approx(1 / 100)


def test_a_stratum_that_was_drawn_completely_is_known():
    found = after(SamplingFrame.of([10], [0]), ([4], [3], [0.2]), ([6], [1], [0.5])).sample()
    assert (found.mean[0, 0], found.spread[0, 0], found.heaviest[0, 0]) == (0.4, 0, 0)


def test_weights_that_are_given_up_are_left_for_rounds_to_come():
    rounds = after(SamplingFrame.of([10**6], [0]), ([4], [3], [0.4]), ([6], [1], [0.6]))
    less = rounds.scaled(np.array([[0.8]]))
    assert less.rest[0, 0] == pytest.approx(0.2)
    np.testing.assert_allclose(less.sample().mean, rounds.sample().mean)
    np.testing.assert_allclose(less.moments()[0], 0.64 * rounds.moments()[0])
