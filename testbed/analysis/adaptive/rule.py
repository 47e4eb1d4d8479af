"""When a campaign that draws in rounds stops: the margins that it is to reach, and how the error is spent on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from testbed.analysis.adaptive.spending import spending_named
from testbed.core.arrays import Float64s
from testbed.core.errors import UsageError

_KEPT_BACK = 0.1  # share of the error that looks after information time 1 may use


@dataclass(frozen=True)
class StopRule:
    """When to stop, and how fast to get there.

    margin: half the width of an interval. relative: the same as a share of the rate; the wider of the two counts. pilot:
    least faults per stratum in the first round. growth: faults of a domain after a round, over those before, at most.
    max_looks: rounds. max_faults: of all domains together.
    Raises UsageError for values that no campaign can have.
    """

    margin: float
    confidence: float = 0.95
    spending: str = "obrien-fleming"
    pilot: int = 2
    growth: float = 3.0
    max_looks: int = 20
    max_faults: float = math.inf
    relative: float = 0.0

    def __post_init__(self) -> None:
        spending_named(self.spending)
        if not (0 < self.margin < 0.5 and 0 < self.confidence < 1):
            raise UsageError(
                f"a margin is between 0 and 0.5 and a confidence between 0 and 1, not {self.margin} and {self.confidence}"
            )
        if not 0 <= self.relative < 1:
            raise UsageError(f"a relative margin is a share of the rate, at least 0 and below 1, not {self.relative}")
        if self.growth <= 1 or min(self.pilot, self.max_looks, self.max_faults) < 1:
            raise UsageError("growth must be above 1; pilot, max_looks and max_faults must be 1 or more")

    def margin_at(self, rate: Float64s) -> Float64s:
        """Half the width that an interval may have where the rate is this."""
        return np.maximum(self.margin, self.relative * rate)

    @property
    def aimed_confidence(self) -> float:
        """Confidence of the interval of a domain whose first look is at information time 1: the most that is ever asked
        of one."""
        return 1 - (1 - self.confidence) * (1 - _KEPT_BACK)

    def spent(self, time: float, late: int, final: bool) -> float:
        """Error used up to a look at this information time, the ``late``-th one after time 1."""
        alpha = 1 - self.confidence
        if final:
            return alpha
        if time >= 1:
            return alpha * (1 - _KEPT_BACK / (late + 1))
        return spending_named(self.spending)(time, alpha * (1 - _KEPT_BACK))
