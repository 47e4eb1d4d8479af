"""How well two engines agree about the same faults: Cohen's kappa over a stratified, clustered sample, and differences
of rates.

Rows are (fault, image) results, judged twice. As in `survey`, strata weigh by their population and images that share a
fault are one cluster. Kappa (Cohen 1960) is ``1 - D / E``: D the share of rows judged differently, E the share that
would be if the two judged independently, each with its own shares of the categories. It is 1 for full agreement and 0
for agreement by chance; it has no value where chance alone agrees fully (E = 0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from testbed.analysis.survey import Estimate, SurveyDesign
from testbed.core.arrays import Float64s


@dataclass(frozen=True)
class Kappa:
    """Cohen's kappa with its interval; all None where it is undefined, and then ``undefined`` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    undefined: str | None = None


@dataclass(frozen=True)
class Agreement:
    """How two judges' verdicts agree. counts, shares: (K, K) rows and population shares, first judge down, second
    across. agreement: the share of the population judged alike."""

    categories: tuple[str, ...]
    counts: NDArray[np.int64]
    shares: Float64s
    agreement: Estimate
    kappa: Kappa


def cohen_kappa(matrix: ArrayLike) -> float | None:
    """Cohen's kappa (Educational and Psychological Measurement 1960) of a (K, K) matrix of counts or shares, >= 0.

    ``(p_o - p_e) / (1 - p_e)``, p_o the diagonal's share and p_e what the margins' product has there. None where
    p_e = 1: both judges know one category only, and the same. Raises ValueError for a matrix that is empty, not square
    or has a negative entry.
    """
    shares = np.asarray(matrix, np.float64)
    if shares.ndim != 2 or shares.shape[0] != shares.shape[1] or (shares < 0).any() or not shares.sum() > 0:
        raise ValueError("an agreement matrix is square, with counts that are not negative and not all zero")
    differing, by_chance = _disagreement(shares / shares.sum())
    return None if by_chance == 0 else 1 - differing / by_chance


def agreement(
    first: ArrayLike, second: ArrayLike, categories: Sequence[str], design: SurveyDesign, confidence: float = 0.95
) -> Agreement:
    """Two judgements of the same rows. first, second: (rows,) positions in ``categories``; ``design``: of these rows.

    The interval of the agreement is `SurveyDesign`'s. Kappa's is that of D, divided by E and stretched by how much the
    linearised standard error of ``E kappa`` (of which E's own uncertainty is part) differs from D's: for a simple
    random sample that standard error is Fleiss, Cohen & Everitt's (Psychological Bulletin 1969), and where no
    disagreement was seen the interval still tells how many could have been missed. Raises ValueError for lengths that
    differ or codes without a category.
    """
    codes_a, codes_b = np.asarray(first), np.asarray(second)
    k = len(categories)
    if codes_a.shape != codes_b.shape or codes_a.shape != design.cluster_of_row.shape:
        raise ValueError(
            f"{codes_a.shape} and {codes_b.shape} judgements were given for {len(design.cluster_of_row)} rows"
        )
    if not ((codes_a >= 0) & (codes_a < k) & (codes_b >= 0) & (codes_b < k)).all():
        raise ValueError(f"a judgement is the position of one of the {k} categories")
    cell = codes_a * k + codes_b
    weight = _row_weight(design)
    counts = np.bincount(cell, minlength=k * k).reshape(k, k)
    shares: Float64s = np.bincount(cell, weight / weight.sum(), minlength=k * k).astype(np.float64).reshape(k, k)
    alike = design.estimate((codes_a == codes_b).astype(np.int8), confidence)
    return Agreement(tuple(categories), counts, shares, alike, _kappa(cell, shares, alike, tuple(categories), design))


def difference(first: Estimate, second: Estimate, correlation: float = 0.0) -> tuple[float, float, float]:
    """``first - second`` and its confidence limits, from the two rates' own limits at one level of confidence.

    Square-and-add (Newcombe, Statistics in Medicine 1998; MOVER of Zou & Donner, 2008): it inherits the limits'
    asymmetry, and does not vanish where neither side saw an event. correlation: between the two estimates; 0 for
    independent samples, and too wide, never too narrow, for positively correlated ones.
    """
    below = (first.rate - first.low, second.high - second.rate)
    above = (first.high - first.rate, second.rate - second.low)
    value = first.rate - second.rate
    return value, max(-1.0, value - _joined(*below, correlation)), min(1.0, value + _joined(*above, correlation))


def correlation(first: ArrayLike, second: ArrayLike, design: SurveyDesign) -> float:
    """Correlation of the estimated means of two (rows,) variables under one design; 0 where one of them is certain."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    of_a, of_b = variance_of_mean(a, design), variance_of_mean(b, design)
    if of_a <= 0 or of_b <= 0:
        return 0.0
    shared = (variance_of_mean(a + b, design) - of_a - of_b) / 2
    return float(np.clip(shared / math.sqrt(of_a * of_b), -1.0, 1.0))


def variance_of_mean(values: ArrayLike, design: SurveyDesign) -> float:
    """Variance of the population-weighted mean of (rows,) numbers: linearised, between the clusters of each stratum.

    For numbers 0 and 1 it is the square of `SurveyDesign.estimate`'s standard error.
    """
    z = np.asarray(values, np.float64)
    whole = design.domains(np.zeros(len(z), np.int8))  # one group: a pair is a stratum, a cell is a cluster
    pool = whole.pool_of_pair[design.stratum_of_cluster]
    weight = design.row_weight[design.stratum_of_cluster]
    mean = np.average(z, weights=_row_weight(design))
    excess = weight * np.bincount(design.cluster_of_row, z - mean)
    size = weight * design.rows_of_cluster
    lone = whole.pool_clusters == 1  # nothing is like it: compared with the whole
    slope = np.where(lone, 0.0, np.bincount(pool, excess) / np.bincount(pool, size))
    squares = np.bincount(pool, (excess - slope[pool] * size) ** 2)
    bessel = np.where(lone, 1.0, whole.pool_clusters / np.maximum(whole.pool_clusters - 1, 1))
    unsampled = np.zeros(len(squares))
    np.maximum.at(unsampled, pool, design.unsampled[design.stratum_of_cluster])
    return float((unsampled * bessel * squares).sum() / size.sum() ** 2)


def _kappa(
    cell: NDArray, shares: Float64s, alike: Estimate, categories: tuple[str, ...], design: SurveyDesign
) -> Kappa:
    differing, by_chance = _disagreement(shares)
    if by_chance == 0:
        only = categories[int(shares.sum(axis=1).argmax())]
        return Kappa(None, undefined=f"every row is {only!r} on both sides, so that chance alone agrees fully")
    value = 1 - differing / by_chance
    # E kappa = E - D has the influence of D, less kappa's share of E's: d E / d p_ij = -(second's share of i + first's
    # share of j). So the interval knows what E's uncertainty adds, or takes away.
    chance = -(shares.sum(axis=0)[:, None] + shares.sum(axis=1)[None, :])
    influence = 1.0 - np.eye(len(shares)) - (1 - value) * chance
    own = alike.standard_error
    stretch = math.sqrt(variance_of_mean(influence.reshape(-1)[cell], design)) / own if own > 0 else 1.0
    low = value - stretch * (alike.rate - alike.low) / by_chance
    high = value + stretch * (alike.high - alike.rate) / by_chance
    return Kappa(value, max(-1.0, low), min(1.0, high))


def _disagreement(shares: Float64s) -> tuple[float, float]:
    """D and E: the shares off the diagonal, found and expected by chance. Sums of what differs, so exactly 0 if none."""
    off = ~np.eye(len(shares), dtype=bool)
    expected = np.outer(shares.sum(axis=1), shares.sum(axis=0))
    return float(shares[off].sum()), float(expected[off].sum())


def _row_weight(design: SurveyDesign) -> Float64s:
    return design.row_weight[design.stratum_of_cluster[design.cluster_of_row]]


def _joined(first: float, second: float, correlation: float) -> float:
    return math.sqrt(max(0.0, first**2 + second**2 - 2 * correlation * first * second))
