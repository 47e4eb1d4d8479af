"""Alarms without a fault by how sure the model is, each count with one-sided upper bounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from testbed.analysis.outputs.confidence import TierEdges, assign_tiers, margin, top1
from testbed.analysis.stats import clopper_pearson
from testbed.core.arrays import Bools

USUAL_TIERS = TierEdges.preset(4)


@dataclass(frozen=True)
class OneSidedBounds:
    """Upper bounds of a rate that hold in 95 and in 99 % of samples (Clopper & Pearson, one-sided)."""

    bound_95: float
    bound_99: float

    @classmethod
    def of(cls, count: int, n: int) -> OneSidedBounds:
        """Bounds from ``count`` events among ``n``; 1 without any."""
        if not n:
            return cls(1.0, 1.0)
        return cls(
            *(float(clopper_pearson(count, n, level).high) for level in (0.90, 0.98))
        )  # each end alone: 95, 99 %


@dataclass(frozen=True)
class TierAlarms:
    """Alarms on the images of a tier. low, high: of their margins, upper edges belong to the tier; None of images that the
    plain engine gets wrong, which are in no tier."""

    low: float | None
    high: float | None
    images: int
    alarms: int
    bound_95: float
    bound_99: float


def alarms_by_tier(
    alarms: Bools, logits: ArrayLike, labels: ArrayLike, edges: TierEdges = USUAL_TIERS
) -> tuple[TierAlarms, ...]:
    """Count alarms on the images of each tier, least confident first, then on those that are classified wrong.

    alarms: (n,); logits: (n, K), of the plain engine; labels: (n,).
    """
    values = np.asarray(logits)
    right = top1(values) == np.asarray(labels)
    tiers = assign_tiers(margin(values), right, edges)
    named: list[tuple[float | None, float | None]] = [*edges.bounds, (None, None)]
    members = [tiers == tier for tier in (*range(len(edges)), -1)]
    return tuple(
        _counted(low, high, int(own.sum()), int(alarms[own].sum()))
        for (low, high), own in zip(named, members, strict=True)
    )


def _counted(low: float | None, high: float | None, images: int, alarms: int) -> TierAlarms:
    bounds = OneSidedBounds.of(alarms, images)
    return TierAlarms(low, high, images, alarms, bounds.bound_95, bounds.bound_99)
