"""The noise floor of one fault-free engine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.core.site import Target
from testbed.sweep.noise_sources import Source
from testbed.sweep.points import EngineRecord


@dataclass(frozen=True)
class Floor:
    """One fault-free engine against the reference golden. tier: (n,) of each image; atol: (n, rtols of the spec's grid)
    the smallest absolute tolerance that lets the image pass, infinity where its output is not finite."""

    source: Source
    target: Target
    engine_hash: str
    arithmetic: str
    tier: NDArray[np.int64]
    atol: NDArray[np.float64]
    other_top1: int | None

    @property
    def engine(self) -> EngineRecord:
        source = self.source
        return EngineRecord(
            source=str(source),
            engine=source.backend,
            precision=source.precision,
            batch=source.batch,
            file=source.file,
            arithmetic=self.arithmetic,
            engine_hash=self.engine_hash,
        )

    def of_tier(self, tier: int | None) -> NDArray[np.float64]:
        return self.atol if tier is None else self.atol[self.tier == tier]
