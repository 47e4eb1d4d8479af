"""The estimator of `survey`, on counts: whatever the number of rows, clusters that are alike are counted together.

With ``m`` a cluster's rows in a group, ``y`` those with the event and ``M`` its rows in all, a rate and its interval are
sums over clusters of functions of (stratum, m, y, M). So it is enough to know how often each combination was seen, and
memory is bounded by strata and groups, not by faults. Definitions and sources are in `testbed.analysis.survey`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from testbed.analysis.stats import OneMore, upper_bound, weighted_interval
from testbed.core.arrays import Float64s
from testbed.core.errors import UsageError


@dataclass(frozen=True)
class Estimate:
    """A rate with its interval. n_effective: the simple random sample that would be as informative. high_95, high_99: what
    it is below with 95 and 99 % confidence, one-sided."""

    rate: float
    low: float
    high: float
    n_rows: int
    n_clusters: int
    n_effective: float
    standard_error: float
    high_95: float
    high_99: float


_ONE_SIDED = (0.95, 0.99)


@dataclass(frozen=True)
class Strata:
    """What a rate needs to know of each stratum, whatever the outcome and the group: (strata,) each.

    weight: population, one unit for all strata. clusters, rows: drawn. square_rows: sum of the squares of the clusters'
    rows. alike: integer label of strata that lend each other their variance; see `SurveyDesign`, also for
    finite_population. Raises UsageError if a weight is not above 0 or less than the clusters of a finite stratum.
    """

    weight: Float64s
    clusters: NDArray[np.int64]
    rows: NDArray[np.int64]
    square_rows: Float64s
    alike: NDArray[np.int64]
    finite_population: bool = False

    def __post_init__(self) -> None:
        if not len(self.weight):
            raise UsageError("there are no rows to estimate a rate from")
        if not (np.isfinite(self.weight) & (self.weight > 0)).all():
            raise UsageError("the weight of a stratum is its population: a finite number above 0")
        if self.finite_population and (self.clusters > self.weight).any():
            raise UsageError("more clusters were drawn from a stratum than its population holds; check the weights")

    def __len__(self) -> int:
        return len(self.weight)

    @cached_property
    def row_weight(self) -> Float64s:
        return self.weight / self.rows

    @cached_property
    def unsampled(self) -> Float64s:
        """The share that was not drawn: all of it where the population is endless."""
        return 1 - self.clusters / self.weight if self.finite_population else np.ones(len(self))


@dataclass(frozen=True)
class Cells:
    """What a grouping makes of each cluster, alike ones counted together: (cells,) each.

    A cell is the rows of one cluster in one group. group: codes from 0, each in use; stratum: position in the `Strata`;
    rows: in the cell; cluster_rows: in all cells of the cluster; count: of cells that are the same in all of this (and in
    their events).
    """

    group: NDArray[np.int64]
    stratum: NDArray[np.int64]
    rows: Float64s
    cluster_rows: Float64s
    count: Float64s


class Domains:
    """One grouping of a sample. Inside: pairs are (group, stratum) that meet."""

    def __init__(self, strata: Strata, labels: Sequence[Hashable], cells: Cells) -> None:
        """Groups cells by label. labels: of the cells' groups."""
        self.strata, self.labels, self.cells = strata, labels, cells
        pairs, self.pair_of_cell = np.unique(cells.group * len(strata) + cells.stratum, return_inverse=True)
        self.pair_group, self.pair_stratum = np.divmod(pairs, len(strata))
        self.pair_rows: Float64s = sums_by(self.pair_of_cell, cells.rows * cells.count)
        weight = strata.row_weight[self.pair_stratum] * self.pair_rows
        self.pair_share: Float64s = weight / sums_by(self.pair_group, weight)[self.pair_group]
        self._pool_strata()

    def _pool_strata(self) -> None:
        """Strata of one cluster share a pool with those of their group that are alike; the others are pools themselves.

        What is still alone joins the other such strata of its group, whatever they are like.
        """
        strata = len(self.strata)
        clusters = self.strata.clusters[self.pair_stratum]
        leftovers = strata + int(self.strata.alike.max()) + 1

        def pools(key: NDArray) -> tuple[NDArray, NDArray, NDArray]:
            codes, pool_of_pair = np.unique(self.pair_group * (leftovers + 1) + key, return_inverse=True)
            return pool_of_pair, codes // (leftovers + 1), sums_by(pool_of_pair, clusters).astype(np.int64)

        key = np.where(clusters > 1, self.pair_stratum, strata + self.strata.alike[self.pair_stratum])
        pool_of_pair, _, size = pools(key)
        self.pool_of_pair, self.pool_group, self.pool_clusters = pools(np.where(size[pool_of_pair] > 1, key, leftovers))

    def estimates_of(self, events: Float64s, confidence: float = 0.95) -> dict[Hashable, Estimate]:
        """Rate and interval per group. events: (cells,) rows of each cell in which the outcome was seen.

        The interval is `weighted_interval`: Fay & Feuer's, which looks at what one more event could weigh, so that it
        neither vanishes when no event was seen nor trusts a variance that few events made. Before, the variance is
        inflated for its degrees of freedom, clusters less strata, as in Korn & Graubard (Survey Methodology 1998).
        """
        cells = self.cells
        seen = events * cells.count
        pair_rate = sums_by(self.pair_of_cell, seen) / self.pair_rows
        rows, faulty_rows = sums_by(self.pair_group, self.pair_rows), sums_by(cells.group, seen)
        rate = np.where(
            faulty_rows == rows, 1.0, np.minimum(sums_by(self.pair_group, self.pair_share * pair_rate), 1.0)
        )
        variance = self._variance(events, rate)
        faulty = events / cells.rows
        event = self._one_more(faulty, 1 - pair_rate)
        interval = weighted_interval(
            rate,
            variance * self._inflation(confidence),
            event,
            self._one_more(1 - faulty, pair_rate),
            confidence,
        )
        columns = zip(
            rate.tolist(),
            interval.low.tolist(),
            interval.high.tolist(),
            rows.astype(np.int64).tolist(),
            sums_by(cells.group, cells.count).astype(np.int64).tolist(),
            np.where(np.isfinite(interval.n_effective), interval.n_effective, rows).tolist(),
            np.sqrt(variance).tolist(),
            *(upper_bound(rate, variance * self._inflation(2 * c - 1), event, c).tolist() for c in _ONE_SIDED),
            strict=True,
        )
        return {label: Estimate(*values) for label, values in zip(self.labels, columns, strict=True)}

    def combined(self, events: Float64s, importance: Float64s, confidence: float = 0.95) -> Estimate:
        """The groups' rates as one, in which each group weighs by its ``importance`` (groups,) instead of its population:
        ``sum a_g p_g``, a_g = importance_g / sum importance. Each cluster must lie in one group.

        A group's p_g is a ratio of two estimates wherever strata reach over groups, so the variance is that of the
        linearised sum: a cluster of group g and stratum h adds ``a_g W_h (y - p_g m) / (M_h N_g)``, N_g being the group's
        estimated population (Särndal, Swensson & Wretman 1992, ch. 5), and these are compared within their strata.
        """
        cells, part = self.cells, importance / importance.sum()
        seen = events * cells.count
        pair_rate = sums_by(self.pair_of_cell, seen) / self.pair_rows
        rates = sums_by(self.pair_group, self.pair_share * pair_rate)
        rate = min(float(part @ rates), 1.0)
        row_weight = self.strata.row_weight
        population = sums_by(self.pair_group, row_weight[self.pair_stratum] * self.pair_rows)
        excess = row_weight[cells.stratum] * (events - rates[cells.group] * cells.rows)
        whole = Domains(self.strata, ["all"], replace(cells, group=np.zeros_like(cells.group)))
        variance = float(whole._between((part / population)[cells.group] * excess)[0])
        faulty = events / cells.rows
        event = self._one_more_of_all(part, faulty, 1 - pair_rate)
        interval = weighted_interval(
            rate,
            variance * whole._inflation(confidence)[0],
            event,
            self._one_more_of_all(part, 1 - faulty, pair_rate),
            confidence,
        )
        rows, n = int(self.pair_rows.sum()), float(interval.n_effective)
        clusters = int(cells.count.sum())
        effective = n if np.isfinite(n) else float(rows)
        limits = float(interval.low), float(interval.high)
        bounds = [float(upper_bound(rate, variance * whole._inflation(2 * c - 1)[0], event, c)) for c in _ONE_SIDED]
        return Estimate(rate, *limits, rows, clusters, effective, float(np.sqrt(variance)), *bounds)

    def _one_more_of_all(self, part: Float64s, faulty: Float64s, room: Float64s) -> OneMore:
        """The same as `_one_more`, over all groups: the heaviest cluster in any of them, a group's weight being its
        ``part``."""
        cells = self.cells
        clusters = sums_by(self.pair_of_cell, cells.count)
        unsampled = self.strata.unsampled[self.pair_stratum]
        weight = part[self.pair_group] * self.pair_share * unsampled / clusters
        heaviest = int(np.argmax(weight * room))
        losing = float(faulty @ cells.count), float((faulty > 0) @ cells.count)
        return OneMore(weight[heaviest] * (1 + losing[0]) / (1 + losing[1]), room[heaviest])

    def _variance(self, events: Float64s, rate: Float64s) -> Float64s:
        """(groups,) variance of the rate, between the clusters of each pool of strata."""
        weight, cells = self.strata.row_weight[self.pair_stratum], self.cells
        excess = weight[self.pair_of_cell] * (events - rate[cells.group] * cells.rows)
        total = sums_by(self.pair_group, weight * self.pair_rows)
        return self._between(excess) / total**2

    def _between(self, excess: Float64s) -> Float64s:
        """(groups,) variance of the sum of ``excess`` (cells,), between the clusters of each pool of strata."""
        strata, cells, pool = self.strata, self.cells, self.pool_of_pair
        weight = strata.row_weight[self.pair_stratum]
        cell_pool, cell_weight = pool[self.pair_of_cell], weight[self.pair_of_cell]
        lone = self.pool_clusters == 1

        size = cell_weight * cells.cluster_rows
        slope = sums_by(cell_pool, excess * cells.count) / sums_by(pool, strata.weight[self.pair_stratum])
        slope[lone] = 0  # compared with the whole group, since nothing is like it
        squares = sums_by(cell_pool, (excess - slope[cell_pool] * size) ** 2 * cells.count)
        # Clusters without a row in the group: their excess is 0, but not what was expected of their size.
        all_sizes = sums_by(pool, weight**2 * strata.square_rows[self.pair_stratum])
        squares += slope**2 * np.maximum(all_sizes - sums_by(cell_pool, size**2 * cells.count), 0)

        bessel = np.where(lone, 1.0, self.pool_clusters / np.maximum(self.pool_clusters - 1, 1))
        unsampled = np.zeros(len(self.pool_group))
        np.maximum.at(unsampled, pool, strata.unsampled[self.pair_stratum])
        return sums_by(self.pool_group, unsampled * bessel * squares)

    def _inflation(self, confidence: float) -> Float64s:
        """(groups,) ``(t_df / t_(n-1))^2``, with n clusters and n less the pools of strata degrees of freedom."""
        n = sums_by(self.pool_group, self.pool_clusters)
        df = sums_by(self.pool_group, self.pool_clusters - 1)
        quantile = 0.5 + confidence / 2
        return (stdtrit(np.maximum(df, 1), quantile) / stdtrit(np.maximum(n - 1, 1), quantile)) ** 2

    def _one_more(self, faulty: Float64s, room: Float64s) -> OneMore:
        """(groups,) the heaviest cluster that could yet have been struck.

        struck: (cells,) share of its rows; room: (pairs,) share of rows not struck. How much of that cluster would be
        lost is the mean over the struck clusters and one more that loses all its rows: all of it where none was seen,
        or where every cluster is one row.
        """
        cells = self.cells
        clusters = sums_by(self.pair_of_cell, cells.count)
        weight = self.pair_share * self.strata.unsampled[self.pair_stratum] / clusters
        order = np.argsort(weight * room, kind="stable")
        heaviest = np.zeros(len(self.labels), np.int64)
        heaviest[self.pair_group[order]] = order  # the last of each group stays
        losing = sums_by(cells.group, faulty * cells.count), sums_by(cells.group, (faulty > 0) * cells.count)
        loss = (1 + losing[0]) / (1 + losing[1])
        return OneMore(weight[heaviest] * loss, room[heaviest])


def sums_by(label: NDArray[np.int64], values: NDArray) -> Float64s:
    """(labels,) the values added up per label."""
    return np.bincount(label, values).astype(np.float64)
