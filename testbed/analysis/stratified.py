"""Rates of domains that are unions of strata, from counts per stratum: the estimates of `survey`, for whole arrays at
once.

Faults are drawn from each stratum uniformly and without replacement. A fault's value is 0 or 1, or the share of its
images with an event where it strikes several (the images are taken as given). With N_h the faults of stratum h and n_h,
t_h, q_h the number, sum and sum of squares of the values seen, ``p = sum N_h t_h / n_h / sum N_h``, and its variance
``sum N_h^2 (1 - n_h / N_h) s_h^2 / n_h / (sum N_h)^2`` (Cochran, Sampling Techniques, 1977, ch. 5).

An endless stratum is one whose places N_h hold more faults than can ever be drawn, such as the 2^32 words that a random
fault may write to each. N_h is then its weight and nothing else: there is no finite-population correction (``1 - n_h /
N_h`` is 1), and however many faults are drawn, the rate is never known for certain.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from testbed.analysis.stats import OneMore, weighted_interval
from testbed.core.arrays import Float64s
from testbed.core.errors import UsageError

_CERTAIN = 1 - 1e-12


@dataclass(frozen=True)
class StratumTally:
    """What was seen per stratum (last axis): faults ``n``, sum ``total`` and sum of squares ``squares`` of their values."""

    n: Float64s
    total: Float64s
    squares: Float64s

    @classmethod
    def of_events(cls, n: ArrayLike, events: ArrayLike) -> StratumTally:
        """Tallies values that are 0 or 1."""
        x = np.asarray(events, np.float64)
        return cls(np.asarray(n, np.float64), x, x)

    @classmethod
    def empty(cls, *shape: int) -> StratumTally:
        return cls(np.zeros(shape), np.zeros(shape), np.zeros(shape))

    def __add__(self, other: StratumTally) -> StratumTally:
        return StratumTally(self.n + other.n, self.total + other.total, self.squares + other.squares)

    def of_classes(self, frame: SamplingFrame) -> StratumTally:
        return StratumTally(*(group_sums(part, frame.class_of) for part in (self.n, self.total, self.squares)))


@dataclass(frozen=True)
class SamplingFrame:
    """The strata: ``population`` and ``domain`` (0 to D-1, none empty) of each, (H,), and the class that it belongs to.

    A class lies within a domain; faults are allocated to classes and shared out within them in proportion to population.
    ``alike``: a label of each stratum's class, the same for classes of different domains whose rates may be about the
    same. ``endless``: (H,) strata of more faults than their population counts; None: none is.
    """

    population: Float64s
    domain: NDArray[np.int64]
    alike: NDArray[np.int64]
    endless: NDArray[np.bool_] | None = None
    share: Float64s = field(init=False)  # of the domain's population

    def __post_init__(self) -> None:
        if not (self.population >= 1).all():
            raise UsageError("a stratum without a fault cannot be sampled; leave it out")
        object.__setattr__(self, "share", self.population / self.sums(self.population)[self.domain])

    @classmethod
    def of(
        cls,
        population: ArrayLike,
        domain: ArrayLike,
        alike: ArrayLike | None = None,
        endless: ArrayLike | None = None,
    ) -> SamplingFrame:
        """Labels of any kind, (H,) each; domains are numbered in the order of their labels. Without ``alike``, every
        stratum is a class of its own."""
        sizes = np.asarray(population, np.float64)
        some = None if endless is None else np.asarray(endless, bool)
        return cls(sizes, _codes(domain), _codes(np.arange(len(sizes)) if alike is None else alike), some)

    def __len__(self) -> int:
        return len(self.population)

    @cached_property
    def drawable(self) -> Float64s:
        """(H,) faults that can be drawn from each stratum: infinity of an endless one."""
        return self.population if self.endless is None else np.where(self.endless, np.inf, self.population)

    def unsampled(self, n: Float64s) -> Float64s:
        """(..., H) the share of each stratum that is left when ``n`` faults were drawn: the finite-population correction."""
        return np.clip(1 - n / self.drawable, 0, 1)

    @property
    def domains(self) -> int:
        return int(self.domain.max()) + 1

    @cached_property
    def class_of(self) -> NDArray[np.int64]:
        """(H,) number of the stratum's class."""
        return _codes(self.domain * (int(self.alike.max()) + 1) + self.alike)

    @cached_property
    def classes(self) -> SamplingFrame:
        """The classes as strata."""
        _, first = np.unique(self.class_of, return_index=True)
        endless = None if self.endless is None else group_sums(self.endless.astype(np.float64), self.class_of) > 0
        return SamplingFrame(group_sums(self.population, self.class_of), self.domain[first], self.alike[first], endless)

    def sums(self, values: Float64s) -> Float64s:
        """(..., D) of (..., H)."""
        return group_sums(values, self.domain)

    def largest(self, values: Float64s) -> NDArray[np.int64]:
        """(..., D): the stratum of each domain where ``values`` (..., H) are largest."""
        order = np.argsort(self.domain, kind="stable")
        starts = np.searchsorted(self.domain[order], np.arange(self.domains + 1))
        parts = [order[a:b] for a, b in pairwise(starts)]
        return np.stack([part[values[..., part].argmax(-1)] for part in parts], -1)


def _codes(labels: ArrayLike) -> NDArray[np.int64]:
    return np.unique(np.asarray(labels), return_inverse=True)[1].astype(np.int64)


def group_sums(values: Float64s, label: NDArray[np.int64]) -> Float64s:
    """(..., labels) sums over the last axis."""
    flat = values.reshape(-1, len(label))
    labels = int(label.max()) + 1
    code = np.arange(len(flat))[:, None] * labels + label
    sums = np.bincount(code.ravel(), flat.ravel(), len(flat) * labels)
    return sums.reshape(*values.shape[:-1], labels).astype(np.float64)


@dataclass(frozen=True)
class Rates:
    """Per domain (last axis): the rate, its limits and its standard error."""

    rate: Float64s
    low: Float64s
    high: Float64s
    error: Float64s

    @property
    def half_width(self) -> Float64s:
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class StratumSample:
    """What a sample tells of each stratum (last axis), however its faults are weighed.

    tally: of all its faults. mean: the estimate of the mean of the stratum's values. spread: what the variance of that
    estimate is of the variance of the values, 1 / n for n faults of equal weight from many. heaviest: the largest share of the
    stratum that one fault stands for, 0 where all were drawn.
    """

    tally: StratumTally
    mean: Float64s
    spread: Float64s
    heaviest: Float64s

    @classmethod
    def of_equals(cls, frame: SamplingFrame, tally: StratumTally) -> StratumSample:
        """A sample of faults that stand for equal shares of their strata."""
        n = np.maximum(tally.n, 1)
        each = frame.unsampled(tally.n) / n
        return cls(tally, tally.total / n, each, each)


def domain_rates(frame: SamplingFrame, tally: StratumTally, confidence: ArrayLike) -> Rates:
    """The rate of each domain with its interval, from faults of equal weight: see `sample_rates`."""
    return sample_rates(frame, StratumSample.of_equals(frame, tally), confidence)


def sample_rates(frame: SamplingFrame, sample: StratumSample, confidence: ArrayLike) -> Rates:
    """The rate of each domain with its interval. confidence: of all, or (..., D) of each.

    Intervals are those of `survey.Domains.estimates` for whole strata drawn without replacement. A domain with a stratum
    of which nothing was drawn yet has the interval (0, 1), and the rate of those of which something was.
    """
    tally, mean = sample.tally, sample.mean
    unknown = frame.sums((tally.n == 0).astype(np.float64)) > 0
    rate = np.clip(_rates(frame, sample), 0, 1)
    variance = frame.sums(variances(frame, sample))

    level = np.minimum(np.asarray(confidence, np.float64), _CERTAIN)
    seen, df = frame.sums(tally.n), frame.sums(np.maximum(tally.n - 1, 0))
    quantile = 0.5 + level / 2
    inflation = (stdtrit(np.maximum(df, 1), quantile) / stdtrit(np.maximum(seen - 1, 1), quantile)) ** 2
    weight = frame.share * sample.heaviest
    event = _one_more(frame, weight, 1 - mean, tally.total, tally.squares)
    non_event = _one_more(frame, weight, mean, tally.n - tally.total, tally.n - 2 * tally.total + tally.squares)
    interval = weighted_interval(rate, variance * inflation, event, non_event, level)
    low, high = np.where(unknown, 0.0, interval.low), np.where(unknown, 1.0, interval.high)
    return Rates(rate, low, high, np.sqrt(variance))


def variances(frame: SamplingFrame, sample: StratumSample) -> Float64s:
    """(..., H) what each stratum adds to the variance of its domain's rate. One of which a single fault was drawn has no
    variance of its own: the largest is taken that its fault's distance from the domain's rate allows."""
    return frame.share**2 * sample.spread * value_variances(frame, sample)


def value_variances(frame: SamplingFrame, sample: StratumSample) -> Float64s:
    """(..., H) variance of the values of each stratum's faults."""
    tally = sample.tally
    n = np.maximum(tally.n, 1)
    seen = np.maximum(tally.squares - tally.total**2 / n, 0) / np.maximum(n - 1, 1)
    rate = _rates(frame, sample)[..., frame.domain]
    return np.where(tally.n == 1, np.maximum(rate, 1 - rate) ** 2, seen)


def _rates(frame: SamplingFrame, sample: StratumSample) -> Float64s:
    """(..., D): the strata of which nothing was drawn have no say."""
    rates = frame.sums(frame.share * sample.mean)
    some = sample.tally.n > 0
    sampled = frame.sums(np.where(some, frame.share, 0))
    return np.where(frame.sums((~some).astype(np.float64)) > 0, rates / np.maximum(sampled, 1e-300), rates)


def _one_more(frame: SamplingFrame, weight: Float64s, room: Float64s, total: Float64s, squares: Float64s) -> OneMore:
    """The heaviest fault that could yet have had an event: as in `survey`, its loss is the mean of the values that were
    not 0 and one more that is 1. That mean is taken as ``sum v^2 / sum v``, which the counts have: 1 where all are 0 or
    1, and never less than the plain mean."""
    heaviest = frame.largest(weight * room)
    above, below = frame.sums(squares), frame.sums(total)
    loss = (1 + above) / (1 + below)
    return OneMore(np.take_along_axis(weight, heaviest, -1) * loss, np.take_along_axis(room, heaviest, -1))
