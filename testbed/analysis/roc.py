"""How well a threshold tells corrupted outputs (positives, weighed, drawn in clusters) from fault-free ones (negatives).

A score is flagged at a threshold iff it is above it. The negatives are taken as given: intervals are about the faults.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from testbed.analysis.domains import Estimate, sums_by
from testbed.analysis.stats import RARE
from testbed.analysis.survey import SurveyDesign
from testbed.core.errors import UsageError

Floats = NDArray[np.float64]
_PERIOD = 16  # replicates whose sums are taken at once


class Roc(NamedTuple):
    """Corners of a ROC curve, from nothing flagged (0, 0) to everything flagged (1, 1), with straight lines between them.

    threshold: (m,) of each corner; where several negatives, or a negative and positives, share a score, the curve has a
    slanting piece from the corner at that threshold to the one just below it, which has the same ``threshold``.
    """

    threshold: Floats
    false_alarm: Floats
    detection: Floats


def roc(positive: ArrayLike, weight: ArrayLike, negative: ArrayLike) -> Roc:
    """positive, weight: (p,) scores, and what each stands for; negative: (n,) scores. Infinite scores are allowed.

    Raises UsageError without positives or negatives.
    """
    scores, weights, clean = (np.asarray(values, np.float64) for values in (positive, weight, negative))
    _check_both(scores, clean)
    order = np.argsort(scores)
    scores, above = scores[order], np.concatenate([np.cumsum(weights[order][::-1])[::-1], [0.0]])
    share = above / above[0]  # of the positives at and above each score
    clean = np.sort(clean)
    levels = np.unique(clean)[::-1]
    corners = [
        (
            1 - np.searchsorted(clean, levels, side) / len(clean),
            share[np.searchsorted(scores, levels, side)],
        )
        for side in ("right", "left")
    ]
    false_alarm, detection = (np.stack(pair, axis=1).reshape(-1) for pair in zip(*corners, strict=True))
    return Roc(
        np.concatenate([[np.inf], np.repeat(levels, 2), [-np.inf]]),
        np.concatenate([[0.0], false_alarm, [1.0]]),
        np.concatenate([[0.0], detection, [1.0]]),
    )


def rank_among(scores: ArrayLike, negative: ArrayLike) -> Floats:
    """(p,) the share of the negatives below each score, ties counting half: its weighted mean is the area under the ROC
    curve (Bamber, J. Math. Psychol. 1975)."""
    values, clean = np.asarray(scores, np.float64), np.sort(np.asarray(negative, np.float64))
    below, not_above = (np.searchsorted(clean, values, side) for side in ("left", "right"))
    ranks: Floats = (below + not_above) / (2 * len(clean))
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


class ClusterBootstrap:
    """Sums over clusters when the faults are drawn again, stratum by stratum.

    Rao & Wu (JASA 1988): of the n clusters of a stratum, n - 1 are drawn with replacement and weigh n / (n - 1), which
    gives sums the variance of the survey estimator. Strata of one cluster are drawn together with those they are like
    (`SurveyDesign`'s ``collapse``), or with the other such strata.
    """

    def __init__(self, design: SurveyDesign, replicates: int = 500, seed: int = 0) -> None:
        self.replicates, self._seed = replicates, seed
        pool = _pools(design)
        self._order = np.argsort(pool, kind="stable")  # clusters, pool after pool
        size = np.bincount(pool)
        start = np.concatenate([[0], np.cumsum(size)[:-1]])
        drawn = np.maximum(size - 1, 1)
        self._start, self._size = np.repeat(start, drawn), np.repeat(size, drawn).astype(np.float64)
        self._weight: Floats = np.where(size > 1, size / drawn, 1.0)[pool]

    def sums(self, columns: list[tuple[NDArray[np.int64], Floats]]) -> list[Floats]:
        """columns: several (clusters (m,), values (m, k)). Returns (replicates, k) of each: the same draws for all."""
        rng = np.random.default_rng(self._seed)
        found = [np.empty((self.replicates, values.shape[1])) for _, values in columns]
        for first in range(0, self.replicates, _PERIOD):
            part = slice(first, min(first + _PERIOD, self.replicates))
            weights = np.stack([self._drawn(rng) for _ in range(part.start, part.stop)])
            for out, (clusters, values) in zip(found, columns, strict=True):
                out[part] = weights[:, clusters] @ values
        return found

    def _drawn(self, rng: np.random.Generator) -> Floats:
        """(clusters,) what each weighs in one replicate."""
        place = self._start + (rng.random(len(self._start)) * self._size).astype(np.int64)
        times = np.bincount(self._order[place], minlength=len(self._order)).astype(np.float64)
        return times * self._weight


def _pools(design: SurveyDesign) -> NDArray[np.int64]:
    """(clusters,) which are drawn from together."""
    stratum, strata = design.stratum_of_cluster, design.strata
    alone = strata.clusters[stratum] == 1
    key = np.where(alone, len(strata.clusters) + strata.alike[stratum], stratum)
    _, pool = np.unique(key, return_inverse=True)
    leftover = np.bincount(pool)[pool] == 1
    _, pool = np.unique(np.where(leftover, -1, pool), return_inverse=True)
    return pool.astype(np.int64)


@dataclass(frozen=True)
class Auc:
    """Area under the ROC curve with its interval, from ``n_rows`` positives of ``n_clusters`` faults."""

    auc: float
    low: float
    high: float
    n_rows: int
    n_clusters: int


@dataclass(frozen=True)
class Ranks:
    """`rank_among` of positives (p, k), and the lowest and highest that each may have; ``middle`` itself where exact."""

    middle: Floats
    low: Floats
    high: Floats

    @classmethod
    def exact(cls, ranks: Floats) -> Ranks:
        return cls(ranks, ranks, ranks)

    @property
    def is_exact(self) -> bool:
        return self.low is self.middle and self.high is self.middle


class Positives:
    """Some rows of a design (``chosen``: (rows,) bool) as positives, to be ranked among negatives."""

    def __init__(self, design: SurveyDesign, chosen: NDArray[np.bool_]) -> None:
        self._design, self._chosen = design, chosen
        cluster = design.cluster_of_row[chosen]
        self.clusters, self._cluster_of_row = np.unique(cluster, return_inverse=True)
        self._weight: Floats = design.row_weight[design.stratum_of_cluster[cluster]]

    def __len__(self) -> int:
        return len(self._weight)

    def columns(self, ranks: Ranks) -> list[tuple[NDArray[np.int64], Floats]]:
        """What `ClusterBootstrap.sums` is to add up for `aucs`."""
        sides = [ranks.low] if ranks.is_exact else [ranks.low, ranks.high]
        return [(self.clusters, self._sums(side)) for side in sides]

    def _sums(self, ranks: Floats) -> Floats:
        """(clusters, k + 1): the weighted ranks of each cluster's positives, and last their weights."""
        values = np.concatenate([ranks, np.ones((len(ranks), 1))], axis=1) * self._weight[:, None]
        columns = [np.bincount(self._cluster_of_row, column, len(self.clusters)) for column in values.T]
        return np.stack(columns, axis=1)

    def aucs(self, ranks: Ranks, replicates: list[Floats], confidence: float = 0.95) -> list[Auc]:
        """One per column of ranks. replicates: of `columns`.

        The interval is the percentile bootstrap's. Where fewer than `RARE` faults are off the perfect rank, it sees too
        little of what could lower the area: then the lower limit is at most that of the survey's interval, which allows for
        what was not seen. Upper limits likewise.
        """
        tails = (0.5 - confidence / 2, 0.5 + confidence / 2)
        total = self._sums(ranks.middle).sum(axis=0)
        found = []
        for column in range(ranks.middle.shape[1]):
            area = float(min(total[column] / total[-1], 1.0))
            low = _quantile(_ratio(replicates[0], column), tails[0])
            high = _quantile(_ratio(replicates[-1], column), tails[1])
            if self._faults(ranks.low[:, column] < 1) < RARE:
                low = min(low, self._mean(ranks.low[:, column], confidence).low)
            if self._faults(ranks.high[:, column] > 0) < RARE:
                high = max(high, self._mean(ranks.high[:, column], confidence).high)
            found.append(Auc(area, min(low, area), max(high, area), len(self), len(self.clusters)))
        return found

    def _faults(self, which: NDArray[np.bool_]) -> int:
        return len(np.unique(self._cluster_of_row[which]))

    def _mean(self, ranks: Floats, confidence: float) -> Estimate:
        domains = self._design.domains(np.where(self._chosen, 0, -1))
        values = np.zeros(len(self._chosen))
        values[self._chosen] = ranks
        return domains.estimates_of(sums_by(domains.cell_of_row, values), confidence)[0]


def _ratio(sample: Floats, column: int) -> Floats:
    weight = sample[:, -1]
    ratios: Floats = np.minimum(sample[weight > 0, column] / weight[weight > 0], 1.0)
    return ratios


def _quantile(values: Floats, tail: float) -> float:
    return float(np.quantile(values, tail)) if len(values) else float(tail > 0.5)


def _check_both(positive: Floats, negative: Floats) -> None:
    if not len(positive) or not len(negative):
        raise UsageError("a ROC curve needs corrupted outputs and fault-free ones; one of the two is missing")
