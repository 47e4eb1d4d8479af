"""Who stands where: points of cost and of what is left, with what is shown of their order beyond chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from testbed.core.arrays import Bools, Float64s
from testbed.protect.tradeoff.record import Standing


@dataclass(frozen=True, eq=False)
class OrderedPoints:
    """Points to be compared. costs, left: (n,) estimates, lower being better. cheaper, fewer: (n, n), [i, j] whether i is
    shown to cost less, and to leave less, than j."""

    costs: Float64s
    left: Float64s
    cheaper: Bools
    fewer: Bools

    def beats(self) -> Bools:
        """(n, n), [i, j] whether i costs no more than j and leaves no more, and one of the two less, as estimated."""
        costs, left = self.costs, self.left
        no_worse = (costs[:, None] <= costs) & (left[:, None] <= left)
        return np.asarray(no_worse & ((costs[:, None] < costs) | (left[:, None] < left)))

    def surely_beats(self) -> Bools:
        """(n, n), the same where both are shown."""
        return np.asarray(self.beats() & self.cheaper & self.fewer)

    def standings(self) -> list[Standing]:
        """(n,) of the points."""
        beaten, surely = (np.atleast_1d(which.any(axis=0)) for which in (self.beats(), self.surely_beats()))
        return [
            "dominated" if sure else "undecided" if some else "front" for some, sure in zip(beaten, surely, strict=True)
        ]


def front_order(costs: Sequence[float], standings: Sequence[Standing]) -> list[int]:
    """The points on the front, from the cheapest on."""
    return sorted((n for n, standing in enumerate(standings) if standing == "front"), key=lambda n: costs[n])
