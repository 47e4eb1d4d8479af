"""Rounds of an adaptive campaign put together without bias: how much each round counts is decided before it is drawn.

Faults go where earlier rounds saw variance, so that a plain mean over all faults of a stratum is too low: a stratum that showed
nothing at first is left alone and keeps its zero, one that showed an event is drawn from again and outgrows it. Here the
estimate of a stratum is ``sum_r a_r m_r`` over its rounds. Each ``m_r`` is unbiased whatever happened before, and the weights
``a_r`` add up to 1 and follow from the rounds before r alone (a martingale; Hadad et al., PNAS 2021). So
``E[sum a_r (m_r - p)] = 0``, however the rounds were allocated.

As faults are drawn without replacement, ``m_r`` is that of Des Raj (JASA 1956): with N faults in the stratum, of which n were
drawn before and showed x events, ``m_r = (x + (N - n) y_r) / N`` with ``y_r`` the mean of the round's own faults.
These are uncorrelated, so that variances add up:
``Var = s^2 sum_r a_r^2 g_r (g_r / n_r - 1 / N)`` with ``g_r = (N - n) / N``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.analysis.stratified import SamplingFrame, StratumSample, StratumTally
from testbed.core.arrays import Float64s

_NONE = 1e-30


@dataclass(frozen=True)
class WeighedRounds:
    """The rounds so far: what each drew and saw, (C, H), and how much it counts, ``weights`` (C, H), 0 where nothing was
    drawn. They add up to 1 at most; what lacks is for rounds to come."""

    frame: SamplingFrame
    tally: StratumTally
    draws: tuple[StratumTally, ...] = ()
    weights: tuple[Float64s, ...] = ()

    @classmethod
    def none_yet(cls, frame: SamplingFrame, campaigns: int) -> WeighedRounds:
        return cls(frame, StratumTally.empty(campaigns, len(frame)))

    @property
    def given(self) -> Float64s:
        """(C, H) weight of the rounds so far."""
        return np.sum(self.weights, axis=0) if self.weights else np.zeros_like(self.tally.n)

    @property
    def rest(self) -> Float64s:
        """(C, H) weight that is left for rounds to come."""
        return np.maximum(1 - self.given, 0)

    def with_round(self, seen: StratumTally, weight: Float64s) -> WeighedRounds:
        return WeighedRounds(self.frame, self.tally + seen, (*self.draws, seen), (*self.weights, weight))

    def of(self, campaigns: NDArray[np.int64]) -> WeighedRounds:
        """Some of the campaigns."""

        def some(tally: StratumTally) -> StratumTally:
            return StratumTally(tally.n[campaigns], tally.total[campaigns], tally.squares[campaigns])

        draws, weights = tuple(map(some, self.draws)), tuple(weight[campaigns] for weight in self.weights)
        return WeighedRounds(self.frame, some(self.tally), draws, weights)

    def scaled(self, factor: Float64s) -> WeighedRounds:
        """The weights times ``factor`` (C, H), 1 at most, which leaves more for rounds to come."""
        return WeighedRounds(self.frame, self.tally, self.draws, tuple(weight * factor for weight in self.weights))

    def shares(self) -> tuple[Float64s, ...]:
        """(C, H) per round: the share of the stratum that its faults stand for together. They add up to 1 where any was
        drawn, and agree with `sample`'s mean. A stratum that was drawn completely is known, so its faults count alike."""
        population, total = self.frame.drawable, self.given
        weights = [weight / np.maximum(total, _NONE) for weight in self.weights]
        complete = self.tally.n >= population
        before = np.zeros_like(total)
        later = np.where(total > 0, 1.0, 0.0)
        shares = []
        for draw, weight in zip(self.draws, weights, strict=True):
            later = np.maximum(later - weight, 0)
            share = weight * (1 - before / population) + later * draw.n / population
            shares.append(np.where(complete, draw.n / population, share))
            before = before + draw.n
        return tuple(shares)

    def moments(self) -> tuple[Float64s, Float64s]:
        """(C, H) what the rounds' part of the estimate has of the variance of the stratum's values, and the largest share of
        the stratum that one of their faults stands for by itself."""
        population = self.frame.drawable
        spread, heaviest, before = (np.zeros_like(self.tally.n) for _ in range(3))
        for draw, weight in zip(self.draws, self.weights, strict=True):
            n, left = np.maximum(draw.n, 1), self.frame.unsampled(before)
            own = weight**2 * left * np.maximum(left / n - 1 / population, 0)
            spread += np.where(draw.n > 0, own, 0)
            heaviest = np.maximum(heaviest, weight * left / n)
            before = before + draw.n
        return spread, heaviest

    def sample(self) -> StratumSample:
        """The strata by all rounds together. Weights of rounds to come are taken to be those so far."""
        mean, heaviest = np.zeros_like(self.tally.n), np.zeros_like(self.tally.n)
        for draw, share in zip(self.draws, self.shares(), strict=True):
            n = np.maximum(draw.n, 1)
            mean += share * draw.total / n
            heaviest = np.maximum(heaviest, share / n)
        unsampled = self.frame.unsampled(self.tally.n)
        spread = self.moments()[0] / np.maximum(self.given, _NONE) ** 2
        return StratumSample(self.tally, mean, np.where(unsampled > 0, spread, 0), heaviest * unsampled)
