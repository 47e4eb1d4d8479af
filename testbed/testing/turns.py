"""Latencies of calls that take turns, so that their ratio holds while the machine's speed drifts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.bench.timing import Budget, Ratio, interleaved, ratio_to


@dataclass(frozen=True, eq=False)
class TurnTimes:
    """What calls took in turns.

    Attributes:
        samples_ms: Every run of each call.
        ratios: Of the median of each call over the first one's, with 95 % intervals: `value`, `low`, `high`.
    """

    samples_ms: tuple[NDArray[np.float64], ...]
    ratios: tuple[Ratio, ...]


def time_in_turns(calls: Sequence[Callable[[], Any]], *, seconds: float = 3.0, runs: int = 100) -> TurnTimes:
    """Time calls in turns, as `testbed bench` does.

    Args:
        calls: What is timed; the first is what the others are compared with.
        seconds: Per call, or ...
        runs: ... so many runs, whichever is less.

    Returns:
        Samples in ms, and ratios of medians to the first call's.

    Example:
        ```py
        times = time_in_turns([lambda: plain.run(feeds), lambda: twin.run(feeds)])
        print(times.ratios[1])
        ```
    """
    samples = interleaved(list(calls), Budget(seconds=seconds, runs=runs))
    return TurnTimes(tuple(samples), tuple(ratio_to(samples[0], of_call) for of_call in samples))
