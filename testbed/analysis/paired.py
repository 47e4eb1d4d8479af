"""What became of an event between two runs of the same faults: the share of it that was removed, from a stratified,
clustered sample.

Every row was judged twice, before and after. With B and A the weighted totals of events before and after, the share
removed is ``1 - A / B``: 1 where none is left, below 0 where there are more than before. It is estimated by the share of
the later events among all, ``t = A / (A + B)``, a proportion, as ``1 - t / (1 - t)``: each row lends its cluster an event
for each time that it had one, so rows with the event both times are matched with themselves. The linearised variance of t
is the delta method's of the ratio; its interval is that of `testbed.analysis.domains`, which looks at what one more event
could weigh, and so does not vanish where nothing is left.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from testbed.analysis.domains import Cells, Domains, Strata, sums_by
from testbed.analysis.survey import SurveyDesign


@dataclass(frozen=True)
class RemovedShare:
    """``1 - after / before`` with its interval. None: without a bound, as of a share of no event at all."""

    share: float | None
    low: float | None
    high: float | None


def removed_by_group(
    design: SurveyDesign, before: ArrayLike, after: ArrayLike, group: ArrayLike, confidence: float = 0.95
) -> dict[Hashable, RemovedShare]:
    """The share of the event that was removed, of each group that has any event.

    design: of the rows, as they were drawn before. before, after: (rows,) of 0 and 1; group: (rows,) labels. Raises ValueError
    for other values or lengths.
    """
    first, second = (np.asarray(values, np.float64) for values in (before, after))
    labels = np.asarray(group)
    for values in (first, second):
        if values.shape != design.cluster_of_row.shape or not ((values == 0) | (values == 1)).all():
            raise ValueError("before and after must hold a 0 or a 1 for each row")
    some = (first + second) > 0
    if not some.any():
        return {}
    names, code = np.unique(labels[some], return_inverse=True)
    clusters = len(design.rows_of_cluster)
    keys, cell = np.unique(code * clusters + design.cluster_of_row[some], return_inverse=True)
    cell_group, cell_cluster = np.divmod(keys, clusters)
    later = sums_by(cell, second[some])
    cells = Cells(
        group=cell_group,
        stratum=design.stratum_of_cluster[cell_cluster],
        rows=sums_by(cell, first[some]) + later,
        cluster_rows=2 * design.rows_of_cluster[cell_cluster],
        count=np.ones(len(keys)),
    )
    estimates = Domains(_judged_twice(design.strata), names.tolist(), cells).estimates_of(later, confidence)
    return {
        name: RemovedShare(_removed(estimate.rate), _removed(estimate.high), _removed(estimate.low))
        for name, estimate in estimates.items()
    }


def _judged_twice(strata: Strata) -> Strata:
    return Strata(
        strata.weight, strata.clusters, 2 * strata.rows, 4 * strata.square_rows, strata.alike, strata.finite_population
    )


def _removed(later: float) -> float | None:
    """The share removed, from the later events' share of all; but for rounding, so that as many as before are 0."""
    return None if later >= 1 else round(1 - later / (1 - later), 12) + 0.0
