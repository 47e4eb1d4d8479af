"""Rates over a stratified, clustered sample of faults, and their confidence intervals.

Rows are (fault, image) results. Strata are sampled at different rates, so a rate weighs each stratum by its population
and never by its rows; and images that share a fault are one cluster, since they fail together.

Estimator, for a group d of rows (Särndal, Swensson & Wretman 1992, ch. 5): with W_h the population of stratum h, M_h
its rows, m_hd and y_hd its rows and events in d, ``p = sum_h W_h (y_hd / M_h) / sum_h W_h (m_hd / M_h)``. For a group
of whole strata this is ``sum W_h p_h / sum W_h``.

Variance: linearised, from the differences between the clusters of a stratum (ultimate clusters; Hansen, Hurwitz & Madow
1953). With one row per fault and whole strata it is ``sum W_h^2 s_h^2 / n_h / (sum W_h)^2``. The images of a weight
fault are taken as given: the interval is about these images and all faults.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from testbed.analysis.stats import OneMore, weighted_interval
from testbed.core.errors import UsageError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A rate with its interval. n_effective: the simple random sample that would be as informative."""

    rate: float
    low: float
    high: float
    n_rows: int
    n_clusters: int
    n_effective: float
    standard_error: float


def survey_proportion(
    y: ArrayLike, stratum: ArrayLike, weight: ArrayLike, cluster: ArrayLike, confidence: float = 0.95
) -> Estimate:
    """The rate of y (0 or 1 per row) in the population. Arguments and errors: see `SurveyDesign`."""
    return SurveyDesign(stratum, weight, cluster).estimate(y, confidence)


def survey_by_group(
    y: ArrayLike,
    stratum: ArrayLike,
    weight: ArrayLike,
    cluster: ArrayLike,
    group: ArrayLike,
    confidence: float = 0.95,
) -> dict[Hashable, Estimate]:
    """The rate of y in each group of rows. Arguments and errors: see `SurveyDesign`."""
    return SurveyDesign(stratum, weight, cluster).by_group(y, group, confidence)


class SurveyDesign:
    """How the rows were drawn: worked out once, then asked about many outcomes and groups.

    All arguments have one element per row. Integer labels are much faster than text.

    stratum: labels. weight: the population of the row's stratum, one unit for all strata. cluster: label of the fault;
    each fault is in one stratum. collapse: label of strata that are alike; a stratum of which one cluster was drawn has
    no variance of its own and shares that of the others like it (default: all are alike). This overstates the variance
    (Wolter 1985, ch. 2.5). finite_population: the weights count clusters, drawn without replacement, so a stratum that
    was drawn completely has no sampling error.

    Raises UsageError if a weight is not above 0, differs within a stratum or is less than the clusters drawn from a
    finite stratum, if a cluster is in two strata, or if a collapse label differs within a stratum.
    """

    def __init__(
        self,
        stratum: ArrayLike,
        weight: ArrayLike,
        cluster: ArrayLike,
        collapse: ArrayLike | None = None,
        finite_population: bool = False,
    ) -> None:
        names, stratum_of_row = np.unique(np.asarray(stratum), return_inverse=True)
        if not len(names):
            raise UsageError("there are no rows to estimate a rate from")
        _, self.cluster_of_row = np.unique(np.asarray(cluster), return_inverse=True)
        self.stratum_of_cluster = _constant(stratum_of_row, self.cluster_of_row, "a cluster is in two strata")
        self.weight: Floats = _constant(np.asarray(weight, np.float64), stratum_of_row, "a stratum has two weights")
        if not (np.isfinite(self.weight) & (self.weight > 0)).all():
            raise UsageError("the weight of a stratum is its population: a finite number above 0")
        alike = np.zeros(len(stratum_of_row)) if collapse is None else np.asarray(collapse)
        _, alike_of_row = np.unique(alike, return_inverse=True)
        self.alike = _constant(alike_of_row, stratum_of_row, "a stratum has two collapse labels")

        self.rows_of_cluster: Floats = np.bincount(self.cluster_of_row).astype(np.float64)
        self.clusters = np.bincount(self.stratum_of_cluster)
        self.square_rows: Floats = _sums(self.stratum_of_cluster, self.rows_of_cluster**2)
        self.row_weight: Floats = self.weight / np.bincount(stratum_of_row)
        if finite_population and (self.clusters > self.weight).any():
            raise UsageError("more clusters were drawn from a stratum than its population holds; check the weights")
        drawn = self.clusters / self.weight if finite_population else np.zeros(len(names))
        self.unsampled: Floats = 1 - drawn

    def estimate(self, y: ArrayLike, confidence: float = 0.95) -> Estimate:
        """The rate of y in the whole population. y: (rows,) of 0 and 1; ValueError otherwise."""
        return self.by_group(y, np.zeros(len(self.cluster_of_row), np.int64), confidence)[0]

    def by_group(self, y: ArrayLike, group: ArrayLike, confidence: float = 0.95) -> dict[Hashable, Estimate]:
        """The rate of y in each group. group: (rows,) labels. For several outcomes of one grouping, keep `domains`."""
        return self.domains(group).estimates(y, confidence)

    def domains(self, group: ArrayLike) -> Domains:
        """The parts of the population that ``group`` tells apart: whole strata, or some of the images of each fault."""
        return Domains(self, group)


class Domains:
    """One grouping of a design's rows. Inside: pairs are (group, stratum) that meet, cells are (group, cluster)."""

    def __init__(self, design: SurveyDesign, group: ArrayLike) -> None:
        labels, group_of_row = np.unique(np.asarray(group), return_inverse=True)
        if len(group_of_row) != len(design.cluster_of_row):
            raise ValueError(f"{len(group_of_row)} group labels were given for {len(design.cluster_of_row)} rows")
        self.design, self.labels = design, labels.tolist()
        clusters, strata = len(design.rows_of_cluster), len(design.weight)

        cells, self.cell_of_row = np.unique(group_of_row * clusters + design.cluster_of_row, return_inverse=True)
        self.cell_group, self.cell_cluster = np.divmod(cells, clusters)
        self.cell_rows: Floats = np.bincount(self.cell_of_row).astype(np.float64)

        stratum_of_cell = design.stratum_of_cluster[self.cell_cluster]
        pairs, self.pair_of_cell = np.unique(self.cell_group * strata + stratum_of_cell, return_inverse=True)
        self.pair_group, self.pair_stratum = np.divmod(pairs, strata)
        self.pair_rows: Floats = _sums(self.pair_of_cell, self.cell_rows)
        weight = design.row_weight[self.pair_stratum] * self.pair_rows
        self.pair_share: Floats = weight / _sums(self.pair_group, weight)[self.pair_group]
        self._pool_strata()

    def _pool_strata(self) -> None:
        """Strata of one cluster share a pool with those of their group that are alike; the others are pools themselves.

        What is still alone joins the other such strata of its group, whatever they are like.
        """
        design, strata = self.design, len(self.design.weight)
        clusters = design.clusters[self.pair_stratum]
        leftovers = strata + int(design.alike.max()) + 1

        def pools(key: NDArray) -> tuple[NDArray, NDArray, NDArray]:
            codes, pool_of_pair = np.unique(self.pair_group * (leftovers + 1) + key, return_inverse=True)
            return pool_of_pair, codes // (leftovers + 1), _sums(pool_of_pair, clusters).astype(np.int64)

        key = np.where(clusters > 1, self.pair_stratum, strata + design.alike[self.pair_stratum])
        pool_of_pair, _, size = pools(key)
        self.pool_of_pair, self.pool_group, self.pool_clusters = pools(np.where(size[pool_of_pair] > 1, key, leftovers))

    def estimates(self, y: ArrayLike, confidence: float = 0.95) -> dict[Hashable, Estimate]:
        """Rate and interval of y per group. y: (rows,) of 0 and 1; ValueError otherwise.

        The interval is `weighted_interval`: Fay & Feuer's, which looks at what one more event could weigh, so that it
        neither vanishes when no event was seen nor trusts a variance that few events made. Before, the variance is
        inflated for its degrees of freedom, clusters less strata, as in Korn & Graubard (Survey Methodology 1998).
        """
        values = np.asarray(y, np.float64)
        if values.shape != self.cell_of_row.shape or not ((values == 0) | (values == 1)).all():
            raise ValueError("y must hold a 0 or a 1 for each row")
        cell_y = _sums(self.cell_of_row, values)
        pair_rate = _sums(self.pair_of_cell, cell_y) / self.pair_rows
        rows, events = _sums(self.pair_group, self.pair_rows), _sums(self.cell_group, cell_y)
        rate = np.where(events == rows, 1.0, np.minimum(_sums(self.pair_group, self.pair_share * pair_rate), 1.0))
        variance = self._variance(cell_y, rate)
        struck = cell_y / self.cell_rows
        interval = weighted_interval(
            rate,
            variance * self._inflation(confidence),
            self._one_more(struck, 1 - pair_rate),
            self._one_more(1 - struck, pair_rate),
            confidence,
        )
        columns = zip(
            rate.tolist(),
            interval.low.tolist(),
            interval.high.tolist(),
            rows.astype(np.int64).tolist(),
            np.bincount(self.cell_group).tolist(),
            np.where(np.isfinite(interval.n_effective), interval.n_effective, rows).tolist(),
            np.sqrt(variance).tolist(),
            strict=True,
        )
        return {label: Estimate(*values) for label, values in zip(self.labels, columns, strict=True)}

    def _variance(self, cell_y: Floats, rate: Floats) -> Floats:
        """(groups,) variance of the rate, between the clusters of each pool of strata."""
        design, pool = self.design, self.pool_of_pair
        weight = design.row_weight[self.pair_stratum]
        cell_pool, cell_weight = pool[self.pair_of_cell], weight[self.pair_of_cell]
        lone = self.pool_clusters == 1

        excess = cell_weight * (cell_y - rate[self.cell_group] * self.cell_rows)
        size = cell_weight * design.rows_of_cluster[self.cell_cluster]
        slope = _sums(cell_pool, excess) / _sums(pool, design.weight[self.pair_stratum])
        slope[lone] = 0  # compared with the whole group, since nothing is like it
        squares = _sums(cell_pool, (excess - slope[cell_pool] * size) ** 2)
        # Clusters without a row in the group: their excess is 0, but not what was expected of their size.
        all_sizes = _sums(pool, weight**2 * design.square_rows[self.pair_stratum])
        squares += slope**2 * np.maximum(all_sizes - _sums(cell_pool, size**2), 0)

        bessel = np.where(lone, 1.0, self.pool_clusters / np.maximum(self.pool_clusters - 1, 1))
        unsampled = np.zeros(len(self.pool_group))
        np.maximum.at(unsampled, pool, design.unsampled[self.pair_stratum])
        total = _sums(self.pair_group, weight * self.pair_rows)
        return _sums(self.pool_group, unsampled * bessel * squares) / total**2

    def _inflation(self, confidence: float) -> Floats:
        """(groups,) ``(t_df / t_(n-1))^2``, with n clusters and n less the pools of strata degrees of freedom."""
        n = _sums(self.pool_group, self.pool_clusters)
        df = _sums(self.pool_group, self.pool_clusters - 1)
        quantile = 0.5 + confidence / 2
        return (stdtrit(np.maximum(df, 1), quantile) / stdtrit(np.maximum(n - 1, 1), quantile)) ** 2

    def _one_more(self, struck: Floats, room: Floats) -> OneMore:
        """(groups,) the heaviest cluster that could yet have been struck.

        struck: (cells,) share of its rows; room: (pairs,) share of rows not struck. How much of that cluster would be
        lost is the mean over the struck clusters and one more that loses all its rows: all of it where none was seen,
        or where every cluster is one row.
        """
        weight = self.pair_share * self.design.unsampled[self.pair_stratum] / np.bincount(self.pair_of_cell)
        order = np.argsort(weight * room, kind="stable")
        heaviest = np.zeros(len(self.labels), np.int64)
        heaviest[self.pair_group[order]] = order  # the last of each group stays
        loss = (1 + _sums(self.cell_group, struck)) / (1 + _sums(self.cell_group, struck > 0))
        return OneMore(weight[heaviest] * loss, room[heaviest])


def _sums(label: NDArray[np.int64], values: NDArray) -> Floats:
    """(labels,) the values added up per label."""
    return np.bincount(label, values).astype(np.float64)


def _constant(values: NDArray, label: NDArray[np.int64], otherwise: str) -> NDArray:
    """(labels,) the one value of each label. Raises UsageError saying ``otherwise`` if a label has several."""
    if len(values) != len(label):
        raise ValueError("stratum, weight, cluster and collapse must have one element per row")
    found = np.empty(label.max() + 1, values.dtype)
    found[label] = values
    if not (found[label] == values).all():
        raise UsageError(f"{otherwise}; check the stratum, weight and cluster of the rows")
    return found
