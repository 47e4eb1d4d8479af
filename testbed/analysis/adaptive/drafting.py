"""The next round of a campaign: how many faults it draws from each stratum, and how much they are going to count.

Both follow from the rounds before alone, which is what keeps the estimate unbiased (`weighing`). The first round steers and
counts next to nothing, as nobody knows yet how many faults will follow. A round that is not the last of a domain counts by its
share of the faults that still seem to be needed; the last one takes all the weight that is left, and draws from every stratum
that has any. Whether it is the last is decided before it is drawn.

A domain whose margin is missed after its last round is opened again: its rounds give up some of their weight for one more. This
does look at what they showed, so that rounds are planned with room for surprises: it happens to few domains, moves their
estimates little, and that is what is left of the bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from testbed.analysis.adaptive.allocation import (
    Rest,
    cheapest_allocation,
    first_allocation,
    formula_half_width,
    smallest_sample,
    smoothed_variances,
    whole_numbers,
)
from testbed.analysis.adaptive.pace import pace_of
from testbed.analysis.adaptive.rule import StopRule
from testbed.analysis.adaptive.weighing import WeighedRounds
from testbed.analysis.stratified import sample_rates, value_variances
from testbed.core.arrays import Float64s

_PILOT_WEIGHT = 0.002  # of the first round
_SPARE = 1.1, 0.95  # times the information wanted, of absolute margins and relative ones: variances are guesses
_SURPRISES = 2.0, 0.0  # events for which there is room: where a rate is known to a share of it, few more change little
_KEPT = (
    0.97,
    0.94,
    0.9,
    0.85,
    0.8,
    0.65,
    0.5,
    0.3,
    0.1,
)  # shares of its weight that a domain may keep that is opened again
_LEAST_GROWTH = 0.1  # of a domain that is still open
_ROUNDING = 1e-6


@dataclass(frozen=True)
class RoundDraft:
    """A round that is planned, of C campaigns: (C, H) whole numbers of faults, and the weight that they will have; and the
    rounds before it, some of whose weight it may have been given."""

    additions: Float64s
    weight: Float64s
    before: WeighedRounds


def first_draft(rounds: WeighedRounds, rule: StopRule, deviation: Float64s | None) -> RoundDraft:
    """Draws a little from every stratum. deviation: (H,) guesses of the strata's standard deviations."""
    frame = rounds.frame
    per_domain = smallest_sample(rule.margin, rule.aimed_confidence) * pace_of(rule).pilot_share
    first = first_allocation(frame, rule.pilot, per_domain, deviation)
    additions, cut = _affordable(np.broadcast_to(first, rounds.tally.n.shape), rounds, rule)
    weight = np.where((cut | (rule.max_looks == 1))[:, None], 1.0, _PILOT_WEIGHT)
    return RoundDraft(additions, np.broadcast_to(weight, additions.shape), rounds)


def next_draft(
    rounds: WeighedRounds, rule: StopRule, is_open: NDArray[np.bool_], closing_times: Float64s, looks: int
) -> RoundDraft:
    """Draws as many as the margins seem to need, in equal steps of ``growth`` at most; of a domain that is open a tenth of what
    it has, or more.

    is_open: (C, D). closing_times: (C, D) the least information time at which a next look would close a domain. looks: rounds
    before.
    """
    frame, pace = rounds.frame, pace_of(rule)
    rounds, needed = _needed(rounds, rule, is_open, closing_times)
    needed = np.where(is_open[:, frame.domain], needed, 0)
    seen, total = frame.sums(rounds.tally.n), np.maximum(frame.sums(needed), 1)
    factor = 1 + total / np.maximum(seen, 1)
    steps = np.maximum(np.ceil(np.log(factor) / math.log(rule.growth) - _ROUNDING), 1)
    in_steps = (factor ** (1 / steps) - 1) * seen / total
    at_once = np.maximum(_LEAST_GROWTH * seen / total, 1)
    last = (steps <= 1) | (looks + 1 >= rule.max_looks)
    whole = whole_numbers(np.where(steps > 1, in_steps, at_once)[:, frame.domain] * needed, frame.class_of)
    whole = np.where(last[:, frame.domain] & (needed > 0), np.maximum(whole, 1), whole)
    additions, cut = _affordable(np.minimum(whole, frame.drawable - rounds.tally.n), rounds, rule)
    last = last | cut[:, None]
    caution = 1 + pace.caution / np.sqrt(1 + frame.sums(rounds.tally.total))
    share = np.minimum(additions / np.maximum(needed, 1) / caution[:, frame.domain], pace.most_weight)
    return RoundDraft(additions, np.where(last[:, frame.domain], 1, share) * rounds.rest, rounds)


def settled(rounds: WeighedRounds) -> NDArray[np.bool_]:
    """(C, D) domains with no weight left for rounds to come, but of strata that were drawn completely."""
    undecided = (rounds.rest > _ROUNDING) & (rounds.frame.drawable > rounds.tally.n)
    return rounds.frame.sums(undecided.astype(np.float64)) == 0


def _needed(
    rounds: WeighedRounds, rule: StopRule, is_open: NDArray[np.bool_], closing_times: Float64s
) -> tuple[WeighedRounds, Float64s]:
    """The rounds, less the weight that domains opened again give up, and (C, H) faults (not whole numbers) that the margins
    still seem to need."""
    frame, pace = rounds.frame, pace_of(rule)
    z = float(ndtri(0.5 + rule.aimed_confidence / 2))
    sample = rounds.sample()
    now = sample_rates(frame, sample, rule.aimed_confidence)
    off = formula_half_width(frame, sample, z) / np.maximum(now.half_width, 1e-9)
    aim = rule.margin_at(np.maximum(now.rate - now.error / 2, 0))
    relative = aim > rule.margin
    spare, surprises = (np.where(relative, few, many) for many, few in (_SPARE, _SURPRISES))
    margin = aim / np.sqrt(closing_times * spare) * np.clip(off, 0.5, 1)
    guess, seen = smoothed_variances(frame, rounds.tally, pace)[:, frame.class_of], value_variances(frame, sample)

    def need(of: NDArray[np.int64], rest: Rest) -> tuple[Float64s, Float64s]:
        return cheapest_allocation(frame, rest, now.rate[of], guess[of], margin[of], z, surprises[of])

    needed, count = need(np.arange(len(is_open)), rest_of(rounds, seen))
    closed = settled(rounds)
    stuck = is_open & ~closed & np.isinf(count)
    if (of := np.flatnonzero(stuck.any(-1))).size:  # what would do if the rounds before left no variance
        afresh, _ = need(of, Rest.after(frame, rounds.tally.n[of]))
        needed[of] = np.where((stuck[of])[:, frame.domain] & (rounds.rest[of] > 0), afresh, needed[of])
    again = is_open & closed
    kept = np.ones(is_open.shape)
    if (of := np.flatnonzero(again.any(-1))).size:
        fewest = np.full((len(of), frame.domains), np.inf)
        kept[of] = np.where(again[of], _KEPT[-1], 1)
        for share in _KEPT:
            part = rounds.of(of).scaled(np.where(again[of], share, 1.0)[:, frame.domain])
            afresh, count = need(of, rest_of(part, seen[of]))
            better = again[of] & (count < fewest) & (fewest > pace.dear * frame.sums(rounds.tally.n[of]))
            fewest, kept[of] = np.where(better, count, fewest), np.where(better, share, kept[of])
            needed[of] = np.where(better[:, frame.domain], afresh, needed[of])
    return rounds.scaled(kept[:, frame.domain]), needed


def rest_of(rounds: WeighedRounds, variance: Float64s) -> Rest:
    """What is left to be drawn for. variance: (C, H) of the values of the strata's faults."""
    frame, drawn = rounds.frame, rounds.tally.n
    unsampled = frame.unsampled(drawn)
    spread, heaviest = rounds.moments()
    left = frame.sums(np.where(unsampled > 0, frame.share**2 * spread * variance, 0))
    weight = frame.share * unsampled * heaviest
    share = frame.share * rounds.rest * unsampled
    return Rest(share, frame.drawable - drawn, left, np.take_along_axis(weight, frame.largest(weight), -1))


def _affordable(wanted: Float64s, rounds: WeighedRounds, rule: StopRule) -> tuple[Float64s, NDArray[np.bool_]]:
    """Cut to what is left of ``max_faults``, in proportion; and (C,) whether nothing is left then."""
    left = np.maximum(rule.max_faults - rounds.tally.n.sum(-1), 0)
    total = wanted.sum(-1)
    share = np.minimum(1, left / np.maximum(total, 1))[:, None]
    running = np.floor(np.cumsum(wanted * share, -1) + _ROUNDING)
    return np.where(share < 1, np.diff(running, axis=-1, prepend=0), wanted), total >= left
