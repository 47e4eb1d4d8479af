"""Parity: how far an engine's outputs are from the reference golden, per confidence tier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.analysis.outputs.compare import max_abs_diff, smallest_atol
from testbed.analysis.outputs.confidence import top1

ImagesByTier = Mapping[str, NDArray[np.int64]]
"""Name of a tier -> rows of the outputs, in the order to be told."""


def parity_by_tier(
    outputs: NDArray[np.float32], golden: NDArray[np.float32], tiers: ImagesByTier, rtol: float, has_classes: bool
) -> list[dict[str, Any]]:
    """Per tier: n, largest |d|, the smallest atol that lets every image pass at ``rtol``, share of equal top-1.

    outputs, golden: (n, ...). A tier without images has null figures; ``top1_agreement`` is null without classes.
    """
    records = []
    for name, rows in tiers.items():
        record: dict[str, Any] = {"tier": name, "n": len(rows)}
        if len(rows) == 0:
            records.append({**record, "max_abs_diff": None, "smallest_atol": None, "top1_agreement": None})
            continue
        ours, theirs = outputs[rows], golden[rows]
        same = float((top1(ours) == top1(theirs)).mean()) if has_classes else None
        record |= {
            "max_abs_diff": float(max_abs_diff(ours, theirs).max()),
            "smallest_atol": float(smallest_atol(ours, theirs, rtol).max()),
            "top1_agreement": same,
        }
        records.append(record)
    return records


def worst(records: Sequence[Mapping[str, Any]], key: str) -> float:
    """The largest figure over the tiers; 0 where none has images."""
    return max((record[key] for record in records if record[key] is not None), default=0.0)
