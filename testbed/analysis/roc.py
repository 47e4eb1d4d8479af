"""How well a threshold tells corrupted outputs (positives, weighed, drawn in clusters) from fault-free ones (negatives).

A score is flagged at a threshold iff it is above it. The negatives are taken as given: intervals are about the faults.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Hashable

import numpy as np
from numpy.typing import ArrayLike

from testbed.analysis.domains import Estimate, sums_by
from testbed.analysis.survey import RowDomains
from testbed.core.arrays import Float64s


def rank_among(scores: ArrayLike, negative: ArrayLike) -> Float64s:
    """(p,) the share of the negatives below each score, ties counting half: its weighted mean is the area under the ROC
    curve (Bamber, J. Math. Psychol. 1975)."""
    values, clean = np.asarray(scores, np.float64), np.sort(np.asarray(negative, np.float64))
    below, not_above = (np.searchsorted(clean, values, side) for side in ("left", "right"))
    ranks: Float64s = (below + not_above) / (2 * len(clean))
    return ranks


def smallest_without_alarm(negative: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """The smallest threshold that flags none of these negatives, and the upper bound of its false-alarm rate.

    The bound is ``1 - (1 - confidence)^(1/n)``, about 3/n at 0.95. It holds although the threshold was read off the very
    negatives it is tested on (Wilks, Ann. Math. Statist. 1941), for negatives that come from where these did.
    """
    scores = np.asarray(negative, np.float64)
    return float(scores.max()), -math.expm1(math.log1p(-confidence) / len(scores))


def largest_accepted(scores: ArrayLike, accepted: Callable[[float], bool]) -> float | None:
    """The largest threshold that is accepted, where higher ones, which flag fewer of ``scores``, are not.

    It is just below one of the scores; infinity where one above every finite score is accepted still (infinite scores
    are flagged at all); None where not even 0 is. Found by bisection: log2 of the number of distinct scores calls.
    """
    levels = np.unique(np.asarray(scores, np.float64))
    levels = levels[(levels > 0) & np.isfinite(levels)]
    candidates = [0.0, *np.nextafter(levels, 0.0).tolist(), sys.float_info.max]
    if not accepted(0.0):
        return None
    good, bad = 0, len(candidates)
    while bad - good > 1:
        middle = (good + bad) // 2
        if accepted(candidates[middle]):
            good = middle
        else:
            bad = middle
    return candidates[good] if good < len(levels) + 1 else math.inf


def areas(domains: RowDomains, ranks: ArrayLike, confidence: float = 0.95) -> dict[Hashable, Estimate]:
    """Area under the ROC curve per group of rows, with its interval; the negatives are taken as given.

    ranks: (rows,) `rank_among` of each row; what rows of a group that is not asked about have does not matter. The area is
    the mean of its positives' ranks, weighed as rates are, and its interval that of a rate (`SurveyDesign`): a rank
    counts as that share of an event. A percentile bootstrap over faults, tried instead, fell to 0.87 where strata are
    small, and to certainty where every rank is 1.
    """
    values = np.asarray(ranks, np.float64)
    return domains.estimates_of(sums_by(domains.cell_of_row, values), confidence)


def concordance(positive: Float64s, negative: Float64s) -> Float64s:
    """(...,) area under the ROC curve of weighted counts per score; NaN where there is no positive or no negative.

    positive, negative: (..., G, S) weights of events and non-events at each of S ascending scores, in G groups; only pairs
    within a group are compared, ties counting half.
    """
    below = np.cumsum(negative, -1) - negative
    concordant = (positive * (below + negative / 2)).sum((-1, -2))
    pairs = (positive.sum(-1) * negative.sum(-1)).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        area: Float64s = concordant / pairs
    return area
