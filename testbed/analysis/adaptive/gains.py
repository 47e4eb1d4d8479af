"""What the design of a sample was worth: how many times as many faults, drawn uniformly, give an estimate of the same variance.

With N_h / N = W_h, m_h and s_h^2 the mean and the variance of the values of stratum h, a rate has from n faults the variance
``(sum W_h (s_h^2 + m_h^2) - p^2) / n`` if they are drawn uniformly from the domain, ``sum W_h s_h^2 / n`` if in proportion to
strata (Cochran, Sampling Techniques, 1977, ch. 5), and as estimated if as they were. The ratios are what strata and their
allocation are worth; they multiply to the whole. The heaviest fault, which keeps intervals honest, is no part of a variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.analysis.stratified import SamplingFrame, StratumSample, group_sums, value_variances, variances
from testbed.core.arrays import Float64s


@dataclass(frozen=True)
class DesignGains:
    """Per domain (D,), as ratios of variances; NaN where no fault had an event. strata: of strata over none; finer: of the
    finer ones over these; allocation: of faults as drawn over faults in proportion to the strata."""

    strata: Float64s
    finer: Float64s
    allocation: Float64s

    @property
    def total(self) -> Float64s:
        return self.strata * self.finer * self.allocation


def design_gains(frame: SamplingFrame, sample: StratumSample, coarser: NDArray[np.int64]) -> DesignGains:
    """Compare the sample with uniform ones. sample: of one campaign, (1, H); coarser: (H,) which of the coarser strata each
    one is part of."""
    seen, mean = value_variances(frame, sample)[0], sample.mean[0]
    n = np.maximum(frame.sums(sample.tally.n[0]), 1)
    square = frame.share * (seen + mean**2)
    rate = frame.sums(frame.share * mean)
    uniform = np.maximum(frame.sums(square) - rate**2, 0)
    first = np.unique(coarser, return_index=True)[1]
    share = group_sums(frame.share, coarser)
    inside = np.maximum(group_sums(square, coarser) - group_sums(frame.share * mean, coarser) ** 2 / share, 0)
    coarse = np.bincount(frame.domain[first], inside, frame.domains)
    fine = frame.sums(frame.share * seen)
    drawn = frame.sums(variances(frame, sample)[0]) * n
    with np.errstate(divide="ignore", invalid="ignore"):
        gains = [
            np.where((above > 0) & (below > 0), above / below, np.nan)
            for above, below in ((uniform, coarse), (coarse, fine), (fine, drawn))
        ]
    return DesignGains(*gains)
