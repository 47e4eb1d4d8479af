"""Means of quantities in [0, 1] over independent images, from running sums: nothing is kept of single images.

An image's value is a share of its tokens, a rank scaled to [0, 1], or a hit or miss. Tokens of one image are alike, so
the image is the cluster and n counts images. Intervals are those of `testbed.analysis.stratified`: a t interval's width
with what one more image could add, and no narrower than Clopper & Pearson's where all values are 0 or 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from testbed.analysis.stratified import SamplingFrame, StratumTally, domain_rates
from testbed.core.arrays import Float64s

_ROUNDING = 1e-9  # how far a value computed in single precision may lie outside [0, 1]


@dataclass(frozen=True)
class MeanEstimate:
    """A mean over ``images`` images with its confidence limits; NaN and the whole range where there is no image."""

    value: float
    low: float
    high: float
    images: int

    def scaled(self, factor: float, offset: float) -> MeanEstimate:
        """The same of ``factor * value + offset``, factor above 0."""
        value, low, high = (factor * end + offset for end in (self.value, self.low, self.high))
        return MeanEstimate(value, low, high, self.images)


class ShareTally:
    """Running sums of any number of quantities, an array of ``shape``."""

    def __init__(self, *shape: int) -> None:
        self.n, self.total, self.squares = (np.zeros(shape) for _ in range(3))

    def add(self, values: ArrayLike) -> None:
        """Count images. values: (images, *shape) in [0, 1]; NaN where a quantity is not defined for an image, which it
        does not count. ValueError for others."""
        batch = np.asarray(values, np.float64)
        known = ~np.isnan(batch)
        counted = np.where(known, batch, 0.0)
        if batch.shape[1:] != self.n.shape or not ((counted >= -_ROUNDING) & (counted <= 1 + _ROUNDING)).all():
            raise ValueError(f"shares of shape {self.n.shape} from 0 to 1 are counted, not {batch.shape}")
        counted = counted.clip(0, 1)
        self.n += known.sum(0)
        self.total += counted.sum(0)
        self.squares += (counted**2).sum(0)

    @property
    def means(self) -> Float64s:
        """(*shape,), NaN where no image was counted."""
        with np.errstate(invalid="ignore"):
            return np.where(self.n > 0, self.total / np.where(self.n > 0, self.n, 1), np.nan)

    def estimates(self, confidence: float = 0.95) -> list[MeanEstimate]:
        """Mean and interval of each quantity, in the array's order."""
        n = self.n.ravel()
        frame = SamplingFrame.of(np.ones(len(n)), np.arange(len(n)), endless=np.ones(len(n), bool))
        rates = domain_rates(frame, StratumTally(n, self.total.ravel(), self.squares.ravel()), confidence)
        ends = zip(self.means.ravel(), rates.low, rates.high, n, strict=True)
        return [MeanEstimate(float(value), float(low), float(high), int(images)) for value, low, high, images in ends]

    def estimate(self, confidence: float = 0.95) -> MeanEstimate:
        """The only quantity's mean and interval."""
        (only,) = self.estimates(confidence)
        return only
