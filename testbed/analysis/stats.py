"""Single proportions: their confidence intervals, and the sample size that gives a wanted margin.

These are for simple random samples. Rates over several strata, or over rows that share a fault, are in `survey`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtri, stdtrit

from testbed.core.errors import UsageError

_LEAST_ERROR, _LEAST_RATE = 1e-9, 1e-300  # that a sample size is told for
RARE = 5  # fewer events, or fewer non-events, than this are rare


class Interval(NamedTuple):
    """Two-sided confidence limits of a proportion, each shaped like the counts (scalars for scalars)."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]


def wilson(x: ArrayLike, n: ArrayLike, confidence: float = 0.95) -> Interval:
    """Wilson's score interval: the p with ``|x/n - p| <= z sqrt(p (1-p) / n)`` (Wilson, JASA 1927).

    x: events, n: trials, broadcast together; real numbers are allowed (effective sizes). n = 0 gives (0, 1).
    Covers about ``confidence`` on average, but as little as 0.84 near p = 0.17/n: see `proportion_interval`.
    """
    x, n = _counts(x, n, confidence)
    z2 = _normal_quantile(confidence) ** 2
    trials = np.where(n > 0, n, 1.0)
    share = x / trials
    centre = share + z2 / (2 * trials)
    spread = np.sqrt(z2 * (share * (1 - share) / trials + z2 / (4 * trials**2)))
    low = np.where(x == 0, 0.0, (centre - spread) / (1 + z2 / trials))  # exactly 0 and 1 at the ends, not nearly
    high = np.where(x == n, 1.0, (centre + spread) / (1 + z2 / trials))
    return Interval(np.where(n > 0, low, 0.0)[()], np.where(n > 0, high, 1.0)[()])


def clopper_pearson(x: ArrayLike, n: ArrayLike, confidence: float = 0.95) -> Interval:
    """The exact interval (Clopper & Pearson, Biometrika 1934): the p that neither one-sided binomial test rejects.

    Arguments as for `wilson`. With a = 1 - confidence the limits are beta quantiles, ``Beta(a/2; x, n-x+1)`` and
    ``Beta(1-a/2; x+1, n-x)``, 0 for x = 0 and 1 for x = n. Covers at least ``confidence`` whatever p is.
    """
    x, n = _counts(x, n, confidence)
    tail = (1 - confidence) / 2
    some, all_but = np.where(x > 0, x, 1.0), np.where(x < n, n - x, 1.0)
    low = np.where(x > 0, betaincinv(some, n - x + 1, tail), 0.0)
    high = np.where(x < n, betaincinv(x + 1, all_but, 1 - tail), 1.0)
    return Interval(low[()], high[()])


def proportion_interval(x: ArrayLike, n: ArrayLike, confidence: float = 0.95) -> Interval:
    """Clopper-Pearson for rare events (fewer than `RARE` events, or fewer than `RARE` non-events), else Wilson.

    So x = 0 and x = n are exact, and Wilson's interval is not used where its coverage falls furthest: at 0.95 the
    least coverage of the two together is 0.926, against Wilson's 0.837 (n = 20 to 1,000). n = 0 gives (0, 1).
    """
    x, n = _counts(x, n, confidence)
    rare = np.minimum(x, n - x) < RARE
    pairs = zip(clopper_pearson(x, n, confidence), wilson(x, n, confidence), strict=True)
    return Interval(*(np.where(rare, exact, score)[()] for exact, score in pairs))


def proportion_bound(x: int, n: int, confidence: float) -> float:
    """One-sided: p is below it with this confidence, exactly (Clopper & Pearson). ``1 - (1 - confidence)^(1/n)`` for x = 0.

    Raises UsageError for a confidence of 0.5 or less.
    """
    return float(clopper_pearson(x, n, 2 * confidence - 1).high)


class WeightedInterval(NamedTuple):
    """Confidence limits, and the simple random sample whose Clopper-Pearson interval has the same shape."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    n_effective: NDArray[np.float64]


class OneMore(NamedTuple):
    """What one event (or non-event) more than was seen could have been.

    weight: the share of the population that its draw would stand for. room: the share of the draws of its stratum that
    it could be, those that were not events. For a simple random sample of n they are 1/n and 1 - p.
    """

    weight: ArrayLike
    room: ArrayLike


def weighted_interval(
    rate: ArrayLike, variance: ArrayLike, event: OneMore, non_event: OneMore, confidence: ArrayLike = 0.95
) -> WeightedInterval:
    """Interval of a weighted sum of proportions, from its estimate and what one more event could add to it.

    rate: estimates in [0, 1]; variance: of the estimates. All arguments broadcast together.

    The upper limit is a quantile of a distribution that has seen one more event, the lower limit of one that has seen
    one more non-event, as in Fay & Feuer (Statistics in Medicine 1997), who use gamma distributions for Poisson rates.
    These are beta distributions, with k the weight and q the room of that event, of mean ``p + k q / (1 + k)`` and
    variance ``(v + k^2 q) / ((1 + k)^2 (1 + 2 k))``. For a simple random sample (v = p (1-p) / n, k = 1/n, q = 1-p)
    they are exactly Clopper & Pearson's. Where no event was seen, the limit still knows what weight one could have.
    """
    _check_confidence(confidence)
    p, v = np.asarray(rate, np.float64), np.asarray(variance, np.float64)
    high, n_high = _limit_with_one_more(p, v, event, confidence)
    low, n_low = _limit_with_one_more(1 - p, v, non_event, confidence)
    return WeightedInterval(np.minimum(1 - low, p)[()], np.maximum(high, p)[()], np.where(p <= 0.5, n_high, n_low)[()])


def upper_bound(rate: ArrayLike, variance: ArrayLike, event: OneMore, confidence: float) -> NDArray[np.float64]:
    """One-sided: the rate is below it with this confidence. Arguments as for `weighted_interval`, whose upper limit at
    ``2 confidence - 1`` it is. For a simple random sample of n without an event it is exactly ``1 - (1 - confidence)^(1/n)``.
    """
    _check_confidence(confidence)
    p = np.asarray(rate, np.float64)
    limit, _ = _limit_with_one_more(p, np.asarray(variance, np.float64), event, 2 * confidence - 1)
    return np.maximum(limit, p)


def _limit_with_one_more(
    p: NDArray[np.float64], v: NDArray[np.float64], more: OneMore, confidence: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Upper limit of `weighted_interval`, and its effective sample size (inf where nothing is left to sample)."""
    k, q = np.asarray(more.weight, np.float64), np.asarray(more.room, np.float64)
    mean = np.minimum(p + k * q / (1 + k), 1.0)
    spread = (v + k**2 * q) / ((1 + k) ** 2 * (1 + 2 * k))
    certain = spread <= mean * (1 - mean) * 1e-15  # none, but for rounding
    total = mean * (1 - mean) / np.where(certain, 1.0, spread) - 1
    total = np.maximum(total, 1e-6)  # a spread that no beta distribution has: the limit is near 1
    a, b = (np.where(certain, 1.0, np.maximum(part * total, np.finfo(float).tiny)) for part in (mean, 1 - mean))
    size = np.where(certain, np.inf, np.maximum(total - 1, 0.0))  # a + b is n + 1 for a simple random sample
    return np.where(certain, mean, betaincinv(a, b, 0.5 + np.asarray(confidence) / 2)), size


def leveugle(population: float, margin: float, confidence: float = 0.95, p: float = 0.5, relative: bool = False) -> int:
    """Faults to draw so that the rate's error stays within ``margin`` (Leveugle et al., DATE 2009).

    ``n = N / (1 + e^2 (N-1) / (t^2 p (1-p)))``, rounded up, with N the faults in the population, t the normal
    quantile of the confidence level, p the expected rate (0.5, the worst case, when unknown) and e the margin:
    absolute, or, if ``relative``, a share of p. At least 1, never more than N, which may be `math.inf`. Raises UsageError
    for values no sample size belongs to.
    """
    _check_confidence(confidence)
    if population < 1:
        raise UsageError(f"the population of faults must be 1 or more, not {population}")
    if not _LEAST_RATE <= p < 1:
        raise UsageError(f"the expected rate p must be between 0 and 1, not {p}; use 0.5 when it is unknown")
    if not (margin > 0 and math.isfinite(margin)):
        raise UsageError(f"the margin must be above 0, not {margin}; 0.01 is one percentage point")
    error = margin * p if relative else margin
    spread = _normal_quantile(confidence) ** 2 * p * (1 - p)
    if population == math.inf:
        if error < _LEAST_ERROR:
            raise UsageError(f"no campaign knows a rate to within {error:g}; ask for {_LEAST_ERROR:g} or more")
        return max(1, math.ceil(spread / error**2))
    return min(int(population), math.ceil(population / (1 + error**2 * (population - 1) / spread)))


def _normal_quantile(confidence: float) -> float:
    return float(ndtri(0.5 + confidence / 2))


def _check_confidence(confidence: ArrayLike) -> None:
    if not ((np.asarray(confidence) > 0) & (np.asarray(confidence) < 1)).all():
        raise UsageError(f"the confidence level must be between 0 and 1, such as 0.95, not {confidence!r}")


def _counts(x: ArrayLike, n: ArrayLike, confidence: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    _check_confidence(confidence)
    events, trials = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(n, np.float64))
    if not ((events >= 0) & (events <= trials)).all():
        raise ValueError("each count of events must be from 0 to its number of trials")
    return events, trials


def rounded_share(share: float) -> float:
    """Nine decimals, for files: far below any interval's width, and free of the noise of summation."""
    return round(share, 9)


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high) of independent values, by Student's t; the limits of a single one are infinite."""
    sample = np.asarray(values, np.float64)
    n, mean = len(sample), float(np.mean(sample))
    if n < 2:
        return mean, -float("inf"), float("inf")
    reach = float(stdtrit(n - 1, 0.5 + confidence / 2)) * float(np.std(sample, ddof=1)) / n**0.5
    return mean, mean - reach, mean + reach
