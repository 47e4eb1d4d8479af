"""How many faults to draw next, and from where, so that every domain's interval gets as narrow as wanted soonest.

Neyman's allocation (JRSS 1934) draws in proportion to N_h sigma_h. What makes it safe where sigma_h is only guessed:

- Variances are guessed per class of strata, not per stratum, so that a stratum of few faults does not steer its own sample.
- Variances are smoothed towards those of classes that are alike and towards half an event in one, so that none is 0.
- No fault stands for more than a certain share of its domain: that is what one event more would add to the rate. There may be
  room for some such events (``surprises``), so that a margin is seldom missed after the round that was to be the last.

All functions take any leading axes; the last one is strata (H,) or classes of a `SamplingFrame`, or its domains (D,).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from testbed.analysis.adaptive.pace import Pace
from testbed.analysis.stratified import SamplingFrame, StratumSample, StratumTally, group_sums, variances
from testbed.core.arrays import Float64s

_MOST_BORROWED = 1e6  # faults' worth of what classes that are alike show, added to a class's own
_FLOORS = np.geomspace(0.04, 1, 14)  # heaviest fault tried, as a share of the one that the margin would just allow
_STEPS = 6


def smoothed_variances(frame: SamplingFrame, tally: StratumTally, pace: Pace) -> Float64s:
    """(..., classes) guessed variances of the values in each class.

    Rates are smoothed as if each class had some more faults like those of the classes alike, these some more like those
    of all classes, and all together half an event in one more (Jeffreys). How many more depends on how much alike they
    turn out (`_borrowed`). The variance of a class that has seen events leans on them, as the next rounds will keep them.
    """
    classes, own = frame.classes, tally.of_classes(frame)
    labels = (np.zeros(len(classes), np.int64), classes.alike, np.arange(len(classes)))
    n, total, squares = (group_sums(part, labels[0]) for part in (own.n, own.total, own.squares))
    mean, square = (total + 0.5) / (n + 1), (squares + 0.5) / (n + 1)
    for wide, narrow in pairwise(labels):
        parent = np.zeros(int(narrow.max()) + 1, np.int64)
        parent[narrow] = wide
        n, total, squares = (group_sums(part, narrow) for part in (own.n, own.total, own.squares))
        mean, square = mean[..., parent], square[..., parent]
        borrowed = _borrowed(n, total, mean, parent, pace.least_borrowed)
        mean = (total + borrowed * mean) / (n + borrowed)
        square = (squares + borrowed * square) / (n + borrowed)
    guess = np.maximum(square - mean**2, 0)

    each = np.maximum(own.n, 1) / np.maximum(1 - own.n / classes.drawable, 1e-9) / classes.share**2
    seen = group_sums(variances(frame, StratumSample.of_equals(frame, tally)), frame.class_of) * each
    events = np.minimum(own.total, own.n - own.total)
    return np.minimum(guess + events / (events + pace.telling) * (seen - guess), 0.25)


def _borrowed(n: Float64s, total: Float64s, mean: Float64s, group: NDArray[np.int64], least: float) -> Float64s:
    """(..., members) size of the beta distribution of ``mean`` that the rates of a group's members come from, ``1/r - 1``
    with r the intra-class correlation by moments (Kleinman, JASA 1973). The most for the only member of its group."""
    others = np.bincount(group)[group] - 1.0
    seen = group_sums(n, group)[..., group]
    apart = group_sums(n * (total / np.maximum(n, 1) - mean) ** 2, group)[..., group] / (mean * (1 - mean))
    spare = seen - group_sums(n**2, group)[..., group] / np.maximum(seen, 1) - others
    correlation = np.where(others > 0, apart - others, 0) / np.maximum(spare, 1)
    return np.clip(1 / np.maximum(correlation, 1e-9) - 1, least, _MOST_BORROWED)


def neyman(frame: SamplingFrame, deviation: Float64s, faults: Float64s | float) -> Float64s:
    """Neyman's allocation: ``faults`` (..., D) of each domain, in proportion to N_h x ``deviation`` (..., H)."""
    pull = frame.share * deviation
    per_pull = np.broadcast_to(faults, (*pull.shape[:-1], frame.domains)) / np.maximum(frame.sums(pull), 1e-300)
    return pull * per_pull[..., frame.domain]


def smallest_sample(margin: float, confidence: float) -> float:
    """Faults without which no margin is reached: where none has an event, the exact interval is (0, 2 x margin)."""
    return float(np.log((1 - confidence) / 2) / np.log1p(-2 * margin)) if margin < 0.5 else 1.0


def first_allocation(
    frame: SamplingFrame, least: int, per_domain: float, deviation: Float64s | None = None
) -> Float64s:
    """Allocates the first round, before anything is known: ``least`` of each stratum or more, up to ``per_domain`` in
    proportion to population.

    deviation: (H,) guesses; half of ``per_domain`` is then Neyman's allocation with them. Whole numbers.
    """
    wanted = frame.share * per_domain
    if deviation is not None:
        wanted = (wanted + neyman(frame, deviation, per_domain)) / 2
    return np.minimum(np.maximum(np.floor(wanted), least), frame.drawable)


@dataclass(frozen=True)
class Rest:
    """What rounds to come are drawn for. share: (..., H) of the domain's population that they stand for together;
    drawable: (..., H) faults that are left; variance: (..., D) that the rounds before leave in the rate, heaviest: (..., D)
    the share of the domain that one of their faults stands for."""

    share: Float64s
    drawable: Float64s
    variance: Float64s
    heaviest: Float64s

    @classmethod
    def after(cls, frame: SamplingFrame, drawn: Float64s) -> Rest:
        """All of the domains' rates is still to be estimated, from what is left after so many faults (..., H)."""
        nothing = np.zeros((*drawn.shape[:-1], frame.domains))
        return cls(frame.share * frame.unsampled(drawn), frame.drawable - drawn, nothing, nothing)


def cheapest_allocation(
    frame: SamplingFrame,
    rest: Rest,
    rate: Float64s,
    variance: Float64s,
    margin: Float64s,
    z: float,
    surprises: Float64s | float = 0.0,
) -> tuple[Float64s, Float64s]:
    """(..., H) faults still to draw (not whole numbers; 1 or more where any is left) with which each domain's interval should
    be ``margin`` (..., D) wide to each side, and (..., D) how many these are: infinity, and 0 of each stratum, where the
    rounds before leave too much variance.

    Neyman's allocation above a floor, with the floor for which the fewest faults are missing. variance: (..., H) of the
    values of the strata's faults. rate: (..., D). surprises: (..., D) events more than expected, each of the heaviest fault,
    with which the margin is still met.
    """
    best, fewest = np.zeros_like(rest.share), np.full(rate.shape, np.inf)
    for floor in _FLOORS:
        heaviest = floor * 2 * margin / (1 + z)
        more = surprises * heaviest
        allowed = _variance_allowed(rate + more, np.maximum(heaviest, rest.heaviest), margin, z)
        allowed = allowed - rest.variance - more * heaviest
        wanted = _above_floor(frame, rest, variance, heaviest, allowed)
        missing = np.where(allowed > 0, frame.sums(wanted), np.inf)
        better = missing < fewest
        fewest = np.where(better, missing, fewest)
        best = np.where(better[..., frame.domain], wanted, best)
    return best, fewest


def half_width(rate: Float64s, variance: Float64s, heaviest: Float64s, z: float) -> Float64s:
    """Approximates half the width of `weighted_interval`'s interval, by the Cornish-Fisher expansion of its quantiles.

    heaviest: share of the domain that one fault stands for.
    """
    rare = np.maximum(np.minimum(rate, 1 - rate), 1e-12)
    skew = (z**2 - 1) / 3 * heaviest * (heaviest - variance / rare) / (rare + heaviest)
    return (heaviest + z * (np.sqrt(variance + heaviest**2) + np.sqrt(variance)) + np.maximum(skew, 0)) / 2


def formula_half_width(frame: SamplingFrame, sample: StratumSample, z: float) -> Float64s:
    """(..., D) what `half_width` makes of the faults seen: how far it is off is known before it is used for a guess."""
    weight = frame.share * sample.heaviest
    heaviest = np.take_along_axis(weight, frame.largest(weight), -1)
    return half_width(frame.sums(frame.share * sample.mean), frame.sums(variances(frame, sample)), heaviest, z)


def _variance_allowed(rate: Float64s, heaviest: Float64s, margin: Float64s, z: float) -> Float64s:
    """(..., D) largest variance with which the interval is still narrow enough; 0 where none is."""
    low, high = np.zeros_like(rate), (margin / z) ** 2
    for _ in range(24):
        middle = (low + high) / 2
        fits = half_width(rate, middle, heaviest, z) <= margin
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    return low


def _above_floor(frame: SamplingFrame, rest: Rest, spread: Float64s, heaviest: Float64s, allowed: Float64s) -> Float64s:
    """(..., H) ``max(1, N_h / N / heaviest, a N_h sigma_h)`` with a such that the variance is as allowed.

    Strata that are above ``a N_h sigma_h`` anyway leave more variance for the others, so a falls from step to step.
    """
    some = (rest.drawable > 0) & (rest.share > 0)
    least = np.where(some, np.maximum(rest.share / heaviest[..., frame.domain], 1), 0)
    pull = np.where(some, rest.share * np.sqrt(spread), 0)
    finite = np.where(some, rest.share**2 * spread / np.maximum(rest.drawable, 1), 0)
    free = some.copy()
    wanted = least
    for _ in range(_STEPS):
        fixed = frame.sums(np.where(free, -finite, rest.share**2 * spread / np.maximum(least, 1) - finite))
        slope = frame.sums(np.where(free, pull, 0)) / np.maximum(allowed - fixed, 1e-300)
        wanted = slope[..., frame.domain] * pull
        free &= wanted > least
    return np.minimum(np.maximum(wanted, least), rest.drawable)


def whole_numbers(wanted: Float64s, label: NDArray[np.int64]) -> Float64s:
    """(..., H) whole numbers of the same sum per label, to within one: rounded up along the running sum of its members."""
    order = np.argsort(label, kind="stable")
    running = np.cumsum(wanted[..., order], -1)
    totals = group_sums(wanted, label)
    before = np.concatenate([np.zeros_like(totals[..., :1]), np.cumsum(totals, -1)[..., :-1]], -1)
    within = np.ceil(running - before[..., label[order]] - 1e-6)
    steps = np.diff(within, axis=-1, prepend=0)
    first = np.r_[True, np.diff(label[order]) != 0]
    steps[..., first] = within[..., first]
    result = np.empty_like(steps)
    result[..., order] = np.maximum(steps, 0)
    return result
