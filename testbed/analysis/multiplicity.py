"""Several tests at once: p-values such that the chance of any false rejection stays below the level."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from testbed.core.arrays import Float64s


def holm_adjusted(p_values: ArrayLike) -> Float64s:
    """(m,) p-values adjusted by Holm's step-down method (Scandinavian Journal of Statistics 1979), whatever their
    dependence. p_values: (m,) in [0, 1]; NaN stays NaN and counts as no test."""
    p = np.asarray(p_values, np.float64)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1.0)
    return adjusted
