"""The second stage of a sample: how many of its units, such as images, each cluster, such as a fault, is seen on, and which.

A systematic sample (Cochran, Sampling Techniques, 1977, ch. 8) takes every (n / N)-th of n units from a random start on. How
many are worth their time follows from how alike the units of a cluster are, and from what a cluster and a unit cost (ch. 10).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from testbed.core.arrays import Int64s


def systematic_sample(sizes: Sequence[int], taken: int, rng: np.random.Generator) -> Int64s:
    """(taken,) units, ascending, of 0 to ``sum(sizes)`` - 1, which lie in groups of these sizes one after the other.

    Within a group the units are put in a random order first. Each unit is taken with probability ``taken / n``, and each
    group has less than one unit more or fewer than its share. Unit i in that order holds the numbers ``i taken`` to
    ``(i + 1) taken - 1``, of which every n-th is taken: the probability is exact.
    """
    n = sum(sizes)
    if not 1 <= taken <= n:
        raise ValueError(f"{taken} of {n} units cannot be taken")
    starts = np.cumsum([0, *sizes])
    order = np.concatenate([start + rng.permutation(size) for start, size in zip(starts[:-1], sizes, strict=True)])
    places = (int(rng.integers(n)) + n * np.arange(taken)) // taken
    return np.sort(order[places]).astype(np.int64)


@dataclass(frozen=True)
class EventComponents:
    """Variance of 0 and 1 in clusters of one kind: ``between`` the clusters' own rates, and ``within`` a cluster."""

    between: float
    within: float

    @classmethod
    def of(cls, events: ArrayLike) -> EventComponents:
        """Estimates both by the analysis of variance (Cochran 1977, ch. 10). events: (clusters, units), two or more of each.

        ``between`` can be below 0 by chance.
        """
        y = np.asarray(events, np.float64)
        clusters, units = y.shape
        means = y.mean(1)
        within = float((means * (1 - means)).sum() * units / (clusters * (units - 1)))
        return cls(float(means.var(ddof=1)) - within / units, within)

    @property
    def total(self) -> float:
        return max(self.between + self.within, 0.0)


def pooled_correlation(kinds: Sequence[EventComponents], population: ArrayLike) -> float | None:
    """Intra-cluster correlation of clusters of several kinds together, 0 to 1; None where nothing varies.

    population: clusters of each kind. With n_h clusters in proportion to W_h s_h (Neyman), the variance of a rate is in
    proportion to ``sum W_h / s_h (between_h + within_h / m)``, m units each: as of one kind of their means weighed so.
    """
    total = np.array([kind.total for kind in kinds])
    weight = np.asarray(population, np.float64) / np.sqrt(np.where(total > 0, total, np.inf))
    between = float(weight @ [kind.between for kind in kinds])
    within = float(weight @ [kind.within for kind in kinds])
    if between + within <= 0:
        return None
    return min(max(between / (between + within), 0.0), 1.0)


@dataclass(frozen=True)
class UnitChoice:
    """How many units each cluster is seen on. exact: by Cochran's formula, infinity where clusters tell nothing; units: the
    whole number next to it, up or down, that has the least variance for its cost."""

    exact: float
    units: int


def best_units(cluster_cost: float, unit_cost: float, correlation: float, most: int) -> UnitChoice:
    """Cochran (1977, ch. 10): ``m = sqrt(c_cluster / c_unit (1 - rho) / rho)``, within 1 and ``most``."""
    if correlation <= 0:
        return UnitChoice(math.inf, most)
    exact = math.sqrt(max(cluster_cost, 0.0) / unit_cost * (1 - correlation) / correlation)

    def variance_for_cost(units: int) -> float:
        return (max(cluster_cost, 0.0) + unit_cost * units) * (correlation + (1 - correlation) / units)

    low = max(math.floor(min(exact, most)), 1)
    return UnitChoice(exact, min((low, min(low + 1, most)), key=variance_for_cost))


def costs_of(units: Sequence[int], seconds: ArrayLike) -> tuple[float, float]:
    """(seconds of a cluster, seconds of a unit) that fit what clusters took best. units: (k,) how many each was seen on, at
    least two different numbers; seconds: (k,) what one took. A cluster costs 0 or more; a unit 1 % of the least or more, as no
    clock tells less."""
    count, took = np.asarray(units, np.float64), np.asarray(seconds, np.float64)
    slope, intercept = (float(value) for value in np.polyfit(count, took, 1))
    if intercept < 0:
        return 0.0, float(np.mean(took / count))
    least = 0.01 * float(took.min())
    if slope < least:
        return float(np.mean(took - least * count)), least
    return intercept, slope
