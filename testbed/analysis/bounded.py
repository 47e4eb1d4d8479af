"""The mean of a quantity between 0 and 1 of which there are few observations, and nothing else is known."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from testbed.analysis.stats import Interval
from testbed.core.errors import UsageError

_DRAWS, _NUMBERS = 1 << 15, 1 << 18  # of a fixed seed: a limit's level is within 0.2 points of what is asked


def bounded_mean_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Two-sided limits of the mean of independent observations in [0, 1], whatever their distribution.

    values: (n,). The upper limit is the quantile of ``sum_i D_i x_(i)``, with x_(1) <= ... <= x_(n), x_(n+1) = 1 and D
    uniform on the simplex of n + 1 parts; the lower one is that of 1 - x, turned round (Gaffke, "Three test statistics for a
    nonparametric one-sided hypothesis on the mean of a nonnegative variable", 2005; Learned-Miller & Thomas 2019). For
    values of 0 and 1 they are Clopper & Pearson's. Unlike a t interval it does not shrink to nothing where all that was
    seen is alike: a rare and different observation may not have been seen. No values give (0, 1).

    Raises UsageError for values outside [0, 1] and for a confidence level that is none.
    """
    if not 0 < confidence < 1:
        raise UsageError(f"the confidence level must be between 0 and 1, such as 0.95, not {confidence}")
    ascending = np.sort(np.asarray(values, np.float64).ravel())
    if not ((ascending >= 0) & (ascending <= 1)).all():
        raise UsageError("an observation of a share is a number from 0 to 1")
    level = 0.5 + confidence / 2
    limits = (1 - _limit(1 - ascending[::-1], level), _limit(ascending, level))
    return Interval(*(np.clip(limit, 0.0, 1.0) for limit in limits))


def _limit(ascending: NDArray[np.float64], level: float) -> NDArray[np.float64]:
    return np.quantile(_spread(len(ascending) + 1) @ np.append(ascending, 1.0), level)


@lru_cache(4)
def _spread(parts: int) -> NDArray[np.float64]:
    """(draws, parts): uniform on the simplex."""
    spread = np.random.default_rng(0).standard_exponential((max(_DRAWS, _NUMBERS // parts), parts))
    return spread / spread.sum(axis=1, keepdims=True)
