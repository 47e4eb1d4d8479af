"""The second stage of persistent faults: each is run on some of the named images, drawn for it alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from testbed.analysis.second_stage import systematic_sample


@dataclass(frozen=True)
class ImageSample:
    """Which images a persistent fault is run on: ``size`` of them, less than there are. tiers: ids of the named images per
    tier."""

    size: int
    tiers: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, size: int | None, tiers: Sequence[Sequence[str]]) -> ImageSample | None:
        """None where all images are run."""
        if size is None or size >= sum(map(len, tiers)):
            return None
        return cls(size, tuple(map(tuple, tiers)))

    def drawn(self, rng: np.random.Generator) -> tuple[str, ...]:
        """Images of one fault, about as many of each tier."""
        ids = [image for tier in self.tiers for image in tier]
        return tuple(ids[row] for row in systematic_sample(tuple(map(len, self.tiers)), self.size, rng).tolist())
