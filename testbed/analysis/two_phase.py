"""Means over a subsample of a weighted sample: faults that were looked at again, of those that a campaign had drawn.

First phase: units were drawn from a population, and unit i stands for ``w_i`` of it. Second phase: of the ``N_g`` units of
group g, ``n_g`` were drawn at random without replacement. A subsampled unit then stands for ``w_i`` times the weight of its
group over that of its subsampled units, so that every group weighs what it weighs in the first phase (Särndal, Swensson &
Wretman 1992, ch. 9: two-phase sampling for stratification, with the separate ratio estimator in each group).

The variance of a mean is that of both phases, linearised: of the second within groups, with its finite-population
correction; of the first as if its units had been drawn independently, which overstates it where they were stratified.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from testbed.analysis.stats import OneMore, weighted_interval
from testbed.core.arrays import Bools, Float64s, Int64s


@dataclass(frozen=True)
class TwoPhaseMean:
    """A mean of values in [0, 1] with its confidence limits, of ``n`` subsampled units."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, eq=False)
class TwoPhaseSample:
    """The subsampled units.

    first_weight: (n,) of the population that each stands for in the first phase; group: (n,) code from 0; group_units,
    group_weight: (G,) units of the first phase in each group, and the sum of their weights. Every group with units has at
    least one subsampled.
    """

    first_weight: Float64s
    group: Int64s
    group_units: Int64s
    group_weight: Float64s

    @cached_property
    def weight(self) -> Float64s:
        """(n,) of the population that each subsampled unit stands for."""
        subsampled = np.bincount(self.group, self.first_weight, len(self.group_units))
        return self.first_weight * (self.group_weight / np.where(subsampled > 0, subsampled, 1))[self.group]

    def mean(self, values: ArrayLike, inside: Bools, confidence: float = 0.95) -> TwoPhaseMean | None:
        """Mean of the units of a domain; None where no unit of it was subsampled.

        values: (n,) in [0, 1]; inside: (n,) which units are of the domain. The interval is `weighted_interval`'s, where one
        more event weighs 1 / n_eff of the domain, n_eff being Kish's effective size (as in Korn & Graubard, Survey
        Methodology 1998). ValueError for other values.
        """
        y = np.asarray(values, np.float64)
        if not inside.any():
            return None
        if not ((y[inside] >= 0) & (y[inside] <= 1)).all():
            raise ValueError("means are of values from 0 to 1")
        size = float(self.weight[inside].sum())
        mean = min(1.0, float(self.weight[inside] @ y[inside]) / size)
        residual = np.where(inside, y - mean, 0.0)
        variance = (self.first_variance(residual) + self.second_variance(residual)) / size**2
        one_unit = float((self.weight[inside] ** 2).sum()) / size**2
        interval = weighted_interval(mean, variance, OneMore(one_unit, 1 - mean), OneMore(one_unit, mean), confidence)
        return TwoPhaseMean(mean, float(interval.low), float(interval.high), int(inside.sum()))

    def first_variance(self, residual: Float64s) -> float:
        """Variance of the sum of ``residual`` (n,) over the population by the first phase's draw."""
        return float((self.weight * self.first_weight) @ residual**2)

    def second_variance(self, residual: Float64s) -> float:
        """Variance of the same by the second phase's draw."""
        groups = len(self.group_units)
        units = np.bincount(self.group, minlength=groups)
        weighted = np.bincount(self.group, self.first_weight * residual, groups)
        total = np.bincount(self.group, self.first_weight, groups)
        centre = np.where(units > 1, weighted / np.where(total > 0, total, 1), 0.0)
        squares = np.bincount(self.group, (self.weight * (residual - centre[self.group])) ** 2, groups)
        bessel = np.where(units > 1, units / np.maximum(units - 1, 1), 1.0)
        left = 1 - units / np.maximum(self.group_units, 1)
        return float((left * bessel) @ squares)
