"""Sampling in rounds until every domain's rate is known to within a margin.

After each round each domain is looked at. Its information time is ``(margin / w)^2``, w being half the width of its
interval, so that 1 is when the margin is met; alpha spending (`spending`) gives the confidence of the interval at that
look. A tenth of the error is kept back for looks after time 1, of which the k-th leaves 1/(k+1). A domain whose interval
is narrow enough is closed and gets no more faults. Its interval holds together with those of its earlier looks, so
whoever stops a campaign earlier, for whatever reason, has a valid interval too. Each domain's interval covers its own
rate with the wanted confidence; all of them together do so less often.

A rate is the lower the sooner its interval is narrow, so that the estimate of a domain that was closed is low by about
what one of its faults stands for; the interval knows that weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from testbed.analysis.adaptive.allocation import (
    cheapest_allocation,
    first_allocation,
    formula_half_width,
    shared_out,
    smallest_sample,
    smoothed_variances,
)
from testbed.analysis.adaptive.spending import critical_value, spending_named
from testbed.analysis.stratified import SamplingFrame, StratumTally, domain_rates
from testbed.core.arrays import Float64s
from testbed.core.errors import UsageError

_KEPT_BACK = 0.1  # share of the error that looks after information time 1 may use
_GRAIN = 8  # information times are powers of 2^(1/8): sequences of looks repeat, and no two looks are nearly the same
_SPARE = 1.05  # more than that information: variances are guesses
_NEVER = -(10**6)  # the power of no look yet
_ROUNDING = 1e-6
_LEAST_GROWTH = 0.1  # of a domain that is still open


@dataclass(frozen=True)
class StopRule:
    """When to stop, and how fast to get there.

    margin: half the width of an interval. pilot: least faults per stratum in the first round. growth: faults of a
    domain after a round, over those before, at most. max_looks: rounds. max_faults: of all domains together.
    Raises UsageError for values that no campaign can have.
    """

    margin: float
    confidence: float = 0.95
    spending: str = "obrien-fleming"
    pilot: int = 2
    growth: float = 2.0
    max_looks: int = 20
    max_faults: float = math.inf

    def __post_init__(self) -> None:
        spending_named(self.spending)
        if not (0 < self.margin < 0.5 and 0 < self.confidence < 1):
            raise UsageError(
                f"a margin is between 0 and 0.5 and a confidence between 0 and 1, not {self.margin} and {self.confidence}"
            )
        if self.growth <= 1 or min(self.pilot, self.max_looks, self.max_faults) < 1:
            raise UsageError("growth must be above 1; pilot, max_looks and max_faults must be 1 or more")

    @property
    def aimed_confidence(self) -> float:
        """Confidence of the interval of a domain whose first look is at information time 1: the most that is ever asked
        of one."""
        return 1 - (1 - self.confidence) * (1 - _KEPT_BACK)

    def spent(self, time: float, late: int, final: bool) -> float:
        """Error used up to a look at this information time, the ``late``-th one after time 1."""
        alpha = 1 - self.confidence
        if final:
            return alpha
        if time >= 1:
            return alpha * (1 - _KEPT_BACK / (late + 1))
        return spending_named(self.spending)(time, alpha * (1 - _KEPT_BACK))


class Monitor:
    """Several campaigns of one design side by side (C of them; one, unless simulated). Arrays are (C, H) or (C, D).

    Alternate `additions` and `observe`. The intervals of the last look at each domain are ``low`` and ``high``, their
    confidence ``level``; ``rate`` is the estimate then.
    """

    def __init__(
        self, frame: SamplingFrame, rule: StopRule, campaigns: int = 1, deviation: Float64s | None = None
    ) -> None:
        """Takes guesses for the first round. deviation: (H,) guesses of the strata's standard deviations for the first
        round."""
        self.frame, self.rule, self.deviation = frame, rule, deviation
        shape = (campaigns, frame.domains)
        self.tally = StratumTally.empty(campaigns, len(frame))
        self.looks = 0
        self.open: NDArray[np.bool_] = np.ones(shape, bool)
        self.met: NDArray[np.bool_] = np.zeros(shape, bool)
        self.rate, self.level = np.zeros(shape), np.zeros(shape)
        self.low, self.high = np.zeros(shape), np.ones(shape)
        self.history = [[_Looks() for _ in range(frame.domains)] for _ in range(campaigns)]

    @property
    def faults(self) -> Float64s:
        """(C,) drawn so far."""
        return self.tally.n.sum(-1)

    def additions(self) -> Float64s:
        """(C, H) whole numbers of faults to draw in the next round: none for closed domains."""
        frame, rule = self.frame, self.rule
        if self.looks == 0:
            per_domain = smallest_sample(rule.margin, rule.aimed_confidence) / 2
            first = first_allocation(frame, rule.pilot, per_domain, self.deviation)
            return self._affordable(np.broadcast_to(first, self.tally.n.shape))
        z = float(ndtri(0.5 + rule.aimed_confidence / 2))
        now = domain_rates(frame, self.tally, rule.aimed_confidence)
        off = formula_half_width(frame, self.tally, z) / np.maximum(now.half_width, 1e-9)
        margin = rule.margin / np.sqrt(self._wanted_times()) * np.clip(off, 0.5, 1)
        drawn = self.tally.of_classes(frame).n
        spread = smoothed_variances(frame, self.tally)
        target = cheapest_allocation(frame.classes, drawn, now.rate, spread, margin, z)
        wanted = np.where(self.open[:, frame.classes.domain], target - drawn, 0)
        return self._affordable(shared_out(frame, self.tally.n, self._in_steps(wanted, target, drawn)))

    def _wanted_times(self) -> Float64s:
        """(C, D) information at which a domain's next look should close it, and some to spare: variances are guesses."""
        wanted = np.ones(self.open.shape)
        for campaign, domain in zip(*np.nonzero(self.open), strict=True):
            wanted[campaign, domain] = self.history[campaign][domain].closing_time(self.rule)
        return wanted * _SPARE

    def _in_steps(self, wanted: Float64s, target: Float64s, drawn: Float64s) -> Float64s:
        """A domain that has to grow by more than ``growth`` does so in equal steps; one that is open grows by a tenth or
        more. All arrays are (C, classes)."""
        classes = self.frame.classes
        seen, total = classes.sums(drawn), classes.sums(wanted)
        factor = 1 + total / np.maximum(seen, 1)
        steps = np.maximum(np.ceil(np.log(factor) / math.log(self.rule.growth) - _ROUNDING), 1)
        now = (factor ** (1 / steps) - 1) * seen
        scaled = wanted * (now / np.maximum(total, 1e-300))[:, classes.domain]
        lacking = np.maximum(np.where(self.open, _LEAST_GROWTH * seen, 0) - now, 0)
        spare = np.where(classes.drawable > drawn, target, 0)
        extra = lacking / np.maximum(classes.sums(spare), 1e-300)
        return scaled + extra[:, classes.domain] * spare

    def _affordable(self, wanted: Float64s) -> Float64s:
        """Cut to what is left of ``max_faults``, in proportion."""
        left = np.maximum(self.rule.max_faults - self.faults, 0)
        share = np.minimum(1, left / np.maximum(wanted.sum(-1), 1))[:, None]
        running = np.floor(np.cumsum(wanted * share, -1) + _ROUNDING)
        return np.where(share < 1, np.diff(running, axis=-1, prepend=0), wanted)

    def observe(self, seen: StratumTally) -> None:
        """What the round's faults showed. Looks at every open domain."""
        frame, rule = self.frame, self.rule
        self.tally = self.tally + seen
        self.looks += 1
        aimed = domain_rates(frame, self.tally, rule.aimed_confidence)
        times = (rule.margin / np.maximum(aimed.half_width, 1e-9)) ** 2
        out = (self.faults + 1 > rule.max_faults) | (seen.n.sum(-1) == 0) | (self.looks >= rule.max_looks)
        known = frame.sums(frame.drawable - self.tally.n) <= 0
        looked = np.zeros_like(self.open)
        level = self.level.copy()
        for campaign, domain in zip(*np.nonzero(self.open), strict=True):
            final = bool(out[campaign] or known[campaign, domain])
            critical = self.history[campaign][domain].critical_value(float(times[campaign, domain]), rule, final)
            if critical is not None:
                looked[campaign, domain] = True
                level[campaign, domain] = 2 * ndtr(critical) - 1
        now = domain_rates(frame, self.tally, np.where(looked, level, rule.aimed_confidence))
        for stored, new in ((self.rate, now.rate), (self.low, now.low), (self.high, now.high), (self.level, level)):
            stored[looked] = new[looked]
        met = looked & ((now.half_width <= rule.margin) | known)
        self.met |= met
        self.open &= ~(met | out[:, None])


class _Looks:
    """The looks at one domain of one campaign."""

    def __init__(self) -> None:
        self.times: tuple[float, ...] = ()
        self.spent: tuple[float, ...] = ()
        self.late, self.power = 0, _NEVER

    def critical_value(self, time: float, rule: StopRule, final: bool) -> float | None:
        """Critical value of a look at this information time; None where no look is worth while: less information than
        at the last one, as when rates turn out higher than they seemed."""
        power = math.floor(_GRAIN * math.log2(time) + _ROUNDING)
        if power <= self.power and not final:
            return None
        self.power = max(power, self.power + 1)
        times, spent = self._with(self.power, rule, final)
        self.times, self.spent = times, spent
        self.late += times[-1] >= 1
        return critical_value(times, spent)

    def closing_time(self, rule: StopRule) -> float:
        """The least information time at which a next look would close the domain."""
        aimed = ndtri(0.5 + rule.aimed_confidence / 2)
        power = max(self.power + 1, 0)
        while critical_value(*self._with(power, rule, False)) > aimed * 2 ** (power / _GRAIN / 2):
            power += 1
        return 2.0 ** (power / _GRAIN)

    def _with(self, power: int, rule: StopRule, final: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
        time = 2.0 ** (power / _GRAIN)
        return (*self.times, time), (*self.spent, rule.spent(time, self.late, final))
