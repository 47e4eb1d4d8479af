"""Does a cheap score rank the components as the campaign does?

Rank correlations (Spearman, Kendall) and the overlap of the top k between a score and the SDC-1 rate, twice. With the
measured rates: intervals from a bootstrap over what was sampled: images, and the faults of each group of alike strata (site x
class of bit). Noise in these rates lowers a correlation, so that such an interval covers a true one of 0 and no other. With
the true rates: the median and quantiles over what they may be (`true_ranks`); verdicts go by these. The few components
themselves are not resampled: they are all there are.

Two safeguards. The same score, permuted over the components, must not pass: how often it would is told. And a verdict
(`verdict`) is a sentence made from the interval, never from the estimate alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, rankdata

from testbed.core.arrays import Float64s
from testbed.core.errors import UsageError
from testbed.models.config import ViTConfig
from testbed.sensitivity.circuits.components import Component
from testbed.sensitivity.rank.effective import effective_counts
from testbed.sensitivity.rank.measured import MeasuredRows, members, rates
from testbed.sensitivity.rank.true_ranks import TrueRanks
from testbed.sensitivity.rank.verdict import CorrelationInterval, Validation, claim_p, two_sided_p

_RESAMPLES = 500
_PERMUTATIONS = 1000
_LEAST_COMPONENTS = 3
_FEW_PARTS = 100  # whose pairs are all compared at once


class MeasuredRates:
    """Measured rates of some components, and their bootstrap replicates."""

    def __init__(self, rows: MeasuredRows, parts: Sequence[Component], config: ViTConfig, seed: int = 0) -> None:
        """Raises UsageError for fewer than three components that the campaign struck."""
        inside = members(rows, parts, config)
        faulty: NDArray[np.bool_] = np.asarray(inside.any(axis=1))
        if faulty.sum() < _LEAST_COMPONENTS:
            raise UsageError(
                f"the campaign struck {int(faulty.sum())} of these {len(parts)} components; a ranking needs three or more"
            )
        self.parts = [part for part, hit in zip(parts, faulty, strict=True) if hit]
        inside = inside[faulty]
        self.rates = rates(inside, rows)
        self.share = inside @ rows.weight / rows.weight.sum()
        self.n = inside.sum(axis=1)
        self.true_ranks = TrueRanks(*effective_counts(inside, rows))
        rng = np.random.default_rng(seed)
        replicates = [rates(inside, rows, resampled_row_counts(rows, rng)) for _ in range(_RESAMPLES)]
        self.replicates = np.where(np.isnan(replicates), self.rates, replicates)
        """(resamples, parts): a component of which no row was drawn again keeps its estimate."""

    def intervals(self, confidence: float) -> NDArray[np.float64]:
        """(2, parts) limits of the measured rates."""
        return np.quantile(self.replicates, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)


def resampled_row_counts(rows: MeasuredRows, rng: np.random.Generator) -> NDArray[np.float64]:
    """How often each row counts in one replicate: images are drawn again, and faults within each pool."""
    images = int(rows.image.max()) + 1
    of_image = np.bincount(rng.integers(images, size=images), minlength=images)
    order = np.argsort(rows.pool, kind="stable")
    starts = np.searchsorted(rows.pool[order], np.unique(rows.pool))
    sizes = np.diff([*starts, len(rows)])
    begin, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    drawn = order[begin + (rng.random(len(rows)) * size).astype(np.int64)]
    return (np.bincount(drawn, minlength=len(rows)) * of_image[rows.image]).astype(np.float64)


def validate(
    by: str,
    scores: Mapping[str, float],
    truth: MeasuredRates,
    *,
    k: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Validation:
    """Compares scores with measured rates, as the only comparison (see `correct_for_comparisons`).

    scores: of every component of ``truth``, higher meaning that it matters more. k: a third of them unless given. Raises
    UsageError for missing scores.
    """
    if missing := [part.name for part in truth.parts if part.name not in scores]:
        raise UsageError(f"{by} has no score of {missing[0]}; score the same components as the campaign struck")
    values = np.array([scores[part.name] for part in truth.parts])
    n = len(values)
    chosen = min(k or max(1, round(n / 3)), n)
    replicates = [spearman(values, r) for r in truth.replicates]
    measured = spearman(values, truth.rates)
    true_ranks = truth.true_ranks.draws(values, np.random.default_rng([seed, 1]))
    control = _control(values, truth.rates, seed)
    p = claim_p(measured, two_sided_p(replicates), control)
    validation = Validation(
        by=by,
        components=n,
        spearman=_interval(measured, replicates, confidence),
        kendall=_interval(kendall(values, truth.rates), [kendall(values, r) for r in truth.replicates], confidence),
        top_k=_interval(
            top_overlap(values, truth.rates, chosen),
            [top_overlap(values, r, chosen) for r in truth.replicates],
            confidence,
        ),
        spearman_true=_quantiles(spearmans(values, true_ranks), confidence),
        kendall_true=_quantiles(kendalls(values, true_ranks), confidence),
        top_k_true=_quantiles([top_overlap(values, r, chosen) for r in true_ranks], confidence),
        k=chosen,
        control=control,
        passed=False,
        verdict="",
        p_value=p,
        p_adjusted=p,
    )
    return validation.judged(confidence)


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """None where one of them does not vary."""
    x, y = rankdata(a), rankdata(b)
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale else None


def kendall(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """Tau-b; None where one of them does not vary."""
    tau = float(kendalltau(a, b).statistic) if np.ptp(a) and np.ptp(b) else float("nan")
    return tau if np.isfinite(tau) else None


def spearmans(a: Float64s, rows: Float64s) -> list[float]:
    """`spearman` of each row, (rows, parts), without equal values; empty where ``a`` does not vary."""
    x = rankdata(a) - (len(a) + 1) / 2
    ranks = np.argsort(np.argsort(rows, axis=1), axis=1) - (len(a) - 1) / 2
    scale = np.sqrt((x @ x) * (ranks[0] @ ranks[0]))
    return (ranks @ x / scale).tolist() if scale else []


def kendalls(a: Float64s, rows: Float64s) -> list[float]:
    """`kendall` of each row, (rows, parts), without equal values; empty where ``a`` does not vary."""
    if not np.ptp(a):
        return []
    if len(a) > _FEW_PARTS:
        return [float(kendalltau(a, row).statistic) for row in rows]
    first, second = np.triu_indices(len(a), 1)
    signs = np.sign(a[first] - a[second])
    pairs = np.sign(rows[:, first] - rows[:, second])
    return np.asarray(pairs @ signs / np.sqrt(np.count_nonzero(signs) * len(signs))).tolist()


def top_overlap(a: NDArray[np.float64], b: NDArray[np.float64], k: int) -> float:
    """Share of the k highest of a that are among the k highest of b; the first of equal ones count."""
    first, second = (set(np.argsort(-values, kind="stable")[:k].tolist()) for values in (a, b))
    return len(first & second) / k


def _interval(value: float | None, replicates: Sequence[float | None], confidence: float) -> CorrelationInterval:
    known = [r for r in replicates if r is not None]
    if value is None or not known:
        return CorrelationInterval(value, None, None)
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return CorrelationInterval(value, float(min(low, value)), float(max(high, value)))


def _quantiles(draws: Sequence[float | None], confidence: float) -> CorrelationInterval:
    """Median and limits; none where it is not defined, as with equal scores."""
    known = [value for value in draws if value is not None]
    if not known:
        return CorrelationInterval(None, None, None)
    low, value, high = np.quantile(known, [(1 - confidence) / 2, 0.5, (1 + confidence) / 2])
    return CorrelationInterval(float(value), float(low), float(high))


def _control(scores: NDArray[np.float64], measured: NDArray[np.float64], seed: int) -> float | None:
    """How often the score, dealt out to the components at random, would do as well."""
    value = spearman(scores, measured)
    if value is None:
        return None
    rng = np.random.default_rng(seed)
    by_chance = [spearman(rng.permutation(scores), measured) for _ in range(_PERMUTATIONS)]
    as_good = sum(1 for correlation in by_chance if correlation is not None and correlation >= value - 1e-12)
    return (1 + as_good) / (1 + _PERMUTATIONS)
