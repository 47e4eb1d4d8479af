"""Parity: how far an engine's outputs are from the reference golden, per confidence tier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.analysis.outputs.compare import max_abs_diff, smallest_atol
from testbed.analysis.outputs.confidence import top1

ImagesByTier = Mapping[str, NDArray[np.int64]]
"""Name of a tier -> rows of the outputs, in the order to be told."""


@dataclass(frozen=True)
class TierParity:
    """One tier: n images, the largest |d|, the smallest atol that lets every image pass, the share of equal top-1.

    Figures are None for a tier without images, ``top1_agreement`` also where there are no classes.
    """

    tier: str
    n: int
    max_abs_diff: float | None
    smallest_atol: float | None
    top1_agreement: float | None


def parity_by_tier(
    outputs: NDArray[np.float32], golden: NDArray[np.float32], tiers: ImagesByTier, rtol: float, has_classes: bool
) -> list[TierParity]:
    """Compare outputs, tier by tier. outputs, golden: (n, ...); rtol: what ``smallest_atol`` goes with."""
    return [_parity(name, outputs[rows], golden[rows], rtol, has_classes) for name, rows in tiers.items()]


def _parity(
    tier: str, ours: NDArray[np.float32], theirs: NDArray[np.float32], rtol: float, has_classes: bool
) -> TierParity:
    if len(ours) == 0:
        return TierParity(tier, 0, None, None, None)
    return TierParity(
        tier,
        len(ours),
        float(max_abs_diff(ours, theirs).max()),
        float(smallest_atol(ours, theirs, rtol).max()),
        float((top1(ours) == top1(theirs)).mean()) if has_classes else None,
    )


def needed_atol(parity: Sequence[TierParity]) -> float:
    """The smallest atol that lets every image of every tier pass; 0 where none has images."""
    return max((tier.smallest_atol for tier in parity if tier.smallest_atol is not None), default=0.0)
