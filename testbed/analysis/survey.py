"""Rates over a stratified, clustered sample of faults, and their confidence intervals.

Rows are (fault, image) results. Strata are sampled at different rates, so a rate weighs each stratum by its population
and never by its rows; and images that share a fault are one cluster, since they fail together.

Estimator, for a group d of rows (Särndal, Swensson & Wretman 1992, ch. 5): with W_h the population of stratum h, M_h
its rows, m_hd and y_hd its rows and events in d, ``p = sum_h W_h (y_hd / M_h) / sum_h W_h (m_hd / M_h)``. For a group
of whole strata this is ``sum W_h p_h / sum W_h``.

Variance: linearised, from the differences between the clusters of a stratum (ultimate clusters; Hansen, Hurwitz & Madow
1953). With one row per fault and whole strata it is ``sum W_h^2 s_h^2 / n_h / (sum W_h)^2``. The images of a weight
fault are taken as given: the interval is about these images and all faults.

Here from rows; `testbed.analysis.domains` has the estimator, and takes counts.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from testbed.analysis.domains import Cells, Domains, Estimate, Strata, sums_by
from testbed.core.arrays import Bools, Float64s
from testbed.core.errors import UsageError


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
        self.rows_of_cluster: Float64s = np.bincount(self.cluster_of_row).astype(np.float64)
        alike = np.zeros(len(stratum_of_row)) if collapse is None else np.asarray(collapse)
        _, alike_of_row = np.unique(alike, return_inverse=True)
        self.strata = Strata(
            weight=_constant(np.asarray(weight, np.float64), stratum_of_row, "a stratum has two weights"),
            clusters=np.bincount(self.stratum_of_cluster),
            rows=np.bincount(stratum_of_row),
            square_rows=sums_by(self.stratum_of_cluster, self.rows_of_cluster**2),
            alike=_constant(alike_of_row, stratum_of_row, "a stratum has two collapse labels"),
            finite_population=finite_population,
        )

    @property
    def row_weight(self) -> Float64s:
        return self.strata.row_weight

    @property
    def unsampled(self) -> Float64s:
        return self.strata.unsampled

    def estimate(self, y: ArrayLike, confidence: float = 0.95) -> Estimate:
        """The rate of y in the whole population. y: (rows,) of 0 and 1; ValueError otherwise."""
        return self.by_group(y, np.zeros(len(self.cluster_of_row), np.int64), confidence)[0]

    def by_group(self, y: ArrayLike, group: ArrayLike, confidence: float = 0.95) -> dict[Hashable, Estimate]:
        """The rate of y in each group. group: (rows,) labels. For several outcomes of one grouping, keep `domains`."""
        return self.domains(group).estimates(y, confidence)

    def domains(self, group: ArrayLike, rows: Bools | None = None) -> RowDomains:
        """The parts of the population that ``group`` tells apart: whole strata, or some of the images of each fault.

        rows: (rows,) which ones lie in any of them, all unless given; group then has a label for each of these.
        """
        return RowDomains(self, group, rows)


class RowDomains(Domains):
    """The groups of a design's rows: each cluster that a group meets is a cell of its own."""

    def __init__(self, design: SurveyDesign, group: ArrayLike, rows: Bools | None = None) -> None:
        labels, group_of_row = np.unique(np.asarray(group), return_inverse=True)
        cluster_of_row = design.cluster_of_row if rows is None else design.cluster_of_row[rows]
        if len(group_of_row) != len(cluster_of_row):
            raise ValueError(f"{len(group_of_row)} group labels were given for {len(cluster_of_row)} rows")
        clusters = len(design.rows_of_cluster)
        keys, self.cell_of_row = np.unique(group_of_row * clusters + cluster_of_row, return_inverse=True)
        cell_group, cell_cluster = np.divmod(keys, clusters)
        cells = Cells(
            group=cell_group,
            stratum=design.stratum_of_cluster[cell_cluster],
            rows=np.bincount(self.cell_of_row).astype(np.float64),
            cluster_rows=design.rows_of_cluster[cell_cluster],
            count=np.ones(len(keys)),
        )
        super().__init__(design.strata, labels.tolist(), cells)

    def estimates(self, y: ArrayLike, confidence: float = 0.95) -> dict[Hashable, Estimate]:
        """Rate and interval of y per group. y: (rows,) of 0 and 1; ValueError otherwise. See `estimates_of`."""
        values = np.asarray(y, np.float64)
        if values.shape != self.cell_of_row.shape or not ((values == 0) | (values == 1)).all():
            raise ValueError("y must hold a 0 or a 1 for each row")
        return self.estimates_of(sums_by(self.cell_of_row, values), confidence)


def _constant(values: NDArray, label: NDArray[np.int64], otherwise: str) -> NDArray:
    """(labels,) the one value of each label. Raises UsageError saying ``otherwise`` if a label has several."""
    if len(values) != len(label):
        raise ValueError("stratum, weight, cluster and collapse must have one element per row")
    constants = np.empty(label.max() + 1, values.dtype)
    constants[label] = values
    if not (constants[label] == values).all():
        raise UsageError(f"{otherwise}; check the stratum, weight and cluster of the rows")
    return constants
