"""Selective protection: how much of the SDC-1 would be gone if the components that a score puts first were protected.

A component's part of the SDC-1 is its rate times its share of all faults. Components of one kind overlap with nothing else
of that kind, so the parts add up to the SDC-1 of all that they cover.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from testbed.core.errors import UsageError


@dataclass(frozen=True)
class ProtectionCurve:
    """``protected``: (n + 1,) share of the components; ``removed``: (n + 1,) share of their SDC-1 that is gone then;
    area: under the curve, 0.5 for a random order on average."""

    by: str
    protected: NDArray[np.float64]
    removed: NDArray[np.float64]
    area: float

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "by": self.by,
            "protected": self.protected.tolist(),
            "removed": self.removed.tolist(),
            "area": self.area,
        }


def protection_curve(by: str, scores: NDArray[np.float64], contributions: NDArray[np.float64]) -> ProtectionCurve:
    """The curve of what protection covers. scores, contributions: (n,). Equal scores share what they cover evenly.
    Raises UsageError where there is no SDC-1."""
    total = contributions.sum()
    if not total > 0:
        raise UsageError("no SDC-1 was measured in these components; there is nothing to protect against")
    removed = [0.0]
    for score in np.unique(scores)[::-1]:
        tied = contributions[scores == score]
        removed += [removed[-1] + tied.mean() * (step + 1) for step in range(len(tied))]
    share = np.array(removed) / total
    protected = np.linspace(0, 1, len(scores) + 1)
    return ProtectionCurve(by, protected, share, float(np.trapezoid(share, protected)))


def ideal(contributions: NDArray[np.float64]) -> ProtectionCurve:
    """The best that any order can do."""
    return protection_curve("measured", contributions, contributions)


def random_order(contributions: NDArray[np.float64]) -> ProtectionCurve:
    """The curve on average over all orders: the diagonal."""
    return protection_curve("random", np.zeros(len(contributions)), contributions)
