"""Campaigns played out on strata whose rates are known: how often intervals hold, and how many faults a margin costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln, gammaln

from testbed.analysis.adaptive.rule import StopRule
from testbed.analysis.adaptive.sequential import Monitor
from testbed.analysis.stats import leveugle
from testbed.analysis.stratified import SamplingFrame, StratumTally
from testbed.core.arrays import Float64s
from testbed.core.errors import UsageError

Design = Literal["leveugle", "uniform", "adaptive"]
_COUNTABLE = 10**9  # populations that NumPy draws from without replacement
_ROUNDING = 1e-12


@dataclass(frozen=True)
class SimulatedTruth:
    """Strata and how many of their faults have an event, (H,): whole numbers, but of endless strata, whose share of
    events it is times their population."""

    frame: SamplingFrame
    events: Float64s

    @classmethod
    def of(cls, frame: SamplingFrame, rates: ArrayLike) -> SimulatedTruth:
        """Rates (H,) are met as nearly as the populations allow."""
        exact = np.asarray(rates, np.float64) * frame.population
        return cls(frame, np.where(np.isinf(frame.drawable), exact, np.round(exact)))

    @property
    def rates(self) -> Float64s:
        """(D,) of the domains."""
        return self.frame.sums(self.events) / self.frame.sums(self.frame.population)

    def draw(self, rng: np.random.Generator, n: Float64s, before: StratumTally) -> StratumTally:
        """Draws ``n`` (..., H) more faults, after those of ``before``: without replacement, but from endless strata."""
        endless = np.isinf(self.frame.drawable)
        bad = self.events - np.where(endless, 0, before.total)
        left = self.frame.population - np.where(endless, 0, before.n)
        small = (left < _COUNTABLE) & ~endless
        x = np.zeros(n.shape)
        counts = (part[small].astype(np.int64) for part in (bad, left - bad, n))
        x[small] = rng.hypergeometric(*counts)
        x[~small] = rng.binomial(n[~small].astype(np.int64), bad[~small] / left[~small])
        return StratumTally.of_events(n, x)


@dataclass(frozen=True)
class ClusteredTruth:
    """Strata whose faults strike several images each, which fail together: (H, images + 1) how probable each number of
    failing images is. Any number of faults can be drawn."""

    frame: SamplingFrame
    chances: Float64s

    @classmethod
    def of(cls, frame: SamplingFrame, rates: ArrayLike, images: int, correlation: float) -> ClusteredTruth:
        """Numbers of failing images are beta-binomial. rates: (H,); correlation: between the images of a fault, above 0."""
        mean, size = np.asarray(rates, np.float64)[:, None], 1 / correlation - 1
        number = np.arange(images + 1)
        some = (mean > 0) & (mean < 1)
        a, b = (np.where(some, part * size, 1.0) for part in (mean, 1 - mean))
        ways = gammaln(images + 1) - gammaln(number + 1) - gammaln(images - number + 1)
        chances = np.exp(ways + betaln(number + a, images - number + b) - betaln(a, b))
        chances = np.where(some, chances, number == images * mean)
        endless = SamplingFrame(frame.population, frame.domain, frame.alike, np.ones(len(frame), bool))
        return cls(endless, chances / chances.sum(-1, keepdims=True))

    @property
    def rates(self) -> Float64s:
        """(D,) of the domains."""
        return self.frame.sums(self.frame.share * (self.chances @ np.linspace(0, 1, self.chances.shape[1])))

    def draw(self, rng: np.random.Generator, n: Float64s, before: StratumTally) -> StratumTally:
        """Draws ``n`` (..., H) more faults."""
        numbers = rng.multinomial(n.astype(np.int64), np.broadcast_to(self.chances, (*n.shape, self.chances.shape[1])))
        values = np.linspace(0, 1, self.chances.shape[1])
        return StratumTally(n.astype(np.float64), numbers @ values, numbers @ values**2)


class Truth(Protocol):
    """A population whose rates are known, to draw faults from."""

    @property
    def frame(self) -> SamplingFrame: ...

    @property
    def rates(self) -> Float64s: ...

    def draw(self, rng: np.random.Generator, n: Float64s, before: StratumTally) -> StratumTally: ...


@dataclass(frozen=True)
class Played:
    """Outcome of C campaigns. faults: (C,); the others (C, D). ``always``: whether the intervals of all looks held."""

    faults: Float64s
    per_domain: Float64s
    rate: Float64s
    low: Float64s
    high: Float64s
    met: NDArray[np.bool_]
    always: NDArray[np.bool_]
    looks: int

    def covered(self, truth: Truth) -> NDArray[np.bool_]:
        """(C, D) whether the interval of the last look holds."""
        return _holds(self.low, self.high, truth.rates)


def play(truth: Truth, rule: StopRule, campaigns: int, seed: int = 0, deviation: Float64s | None = None) -> Played:
    """``campaigns`` adaptive campaigns until each one stops. deviation: guesses (H,) that steer the first round."""
    rng = np.random.default_rng(seed)
    monitor = Monitor(truth.frame, rule, campaigns, deviation)
    always = np.ones_like(monitor.open)
    while monitor.open.any():
        monitor.observe(truth.draw(rng, monitor.additions(), monitor.tally))
        always &= _holds(monitor.low, monitor.high, truth.rates)
    per_domain = truth.frame.sums(monitor.tally.n)
    last = (monitor.rate, monitor.low, monitor.high, monitor.met)
    return Played(monitor.faults, per_domain, *last, always, monitor.looks)


def _holds(low: Float64s, high: Float64s, truth: Float64s) -> NDArray[np.bool_]:
    return (low <= truth + _ROUNDING) & (truth <= high + _ROUNDING)


@dataclass(frozen=True)
class Needed:
    """Faults until a campaign stops. mean, low, high: of all domains, and the 5th and 95th percentile. per_domain: mean
    (D,); middle: median (D,), which the few campaigns that are unlucky move little. met: share of the domains whose margin
    was reached before ``max_looks`` or ``max_faults``."""

    mean: float
    low: float
    high: float
    per_domain: Float64s
    middle: Float64s
    met: float


def faults_needed(
    frame: SamplingFrame, rates: ArrayLike, rule: StopRule, design: Design, campaigns: int = 200, seed: int = 0
) -> Needed:
    """What a margin on every domain's rate costs where the strata's rates (H,) are as given.

    design: "leveugle" draws uniformly in each domain, as many as Leveugle's formula asks for with p = 0.5, and never
    looks. "uniform" draws uniformly in each domain, with the looks and the stop of ``rule``. "adaptive" draws from the
    strata.
    """
    if design == "leveugle":
        sizes = frame.sums(frame.drawable).tolist()
        fixed = np.array([leveugle(size, rule.margin, rule.confidence) for size in sizes], np.float64)
        return Needed(fixed.sum(), fixed.sum(), fixed.sum(), fixed, fixed, 1.0)
    truth = SimulatedTruth.of(frame, rates)
    if design == "uniform":
        domains = np.arange(frame.domains)
        endless = np.isinf(frame.sums(frame.drawable))
        truth = SimulatedTruth(
            SamplingFrame.of(frame.sums(frame.population), domains, endless=endless), frame.sums(truth.events)
        )
    elif design != "adaptive":
        raise UsageError(f"unknown design {design!r}; known: leveugle, uniform, adaptive")
    played = play(truth, rule, campaigns, seed)
    low, high = np.quantile(played.faults, [0.05, 0.95])
    per_domain = played.per_domain
    return Needed(
        float(played.faults.mean()),
        float(low),
        float(high),
        per_domain.mean(0),
        np.median(per_domain, axis=0),
        float(played.met.mean()),
    )
