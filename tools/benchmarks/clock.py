"""Reading the clock: sides take turns, so that a ratio holds while the machine's speed drifts.

CPU time is the process's, over all its threads; it does not run while other programs have the core.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Timing:
    """One timed piece of work."""

    injections: int
    cpu_seconds: float
    wall_seconds: float

    @property
    def rate(self) -> float:
        """Injections per CPU-second."""
        return self.injections / self.cpu_seconds

    def record(self) -> dict[str, float]:
        return asdict(self)


def timed(work: Callable[[], int]) -> Timing:
    """``work`` returns how many injections it did."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    injections = work()
    return Timing(injections, time.process_time() - cpu, time.perf_counter() - wall)


Side = Callable[[int], int]
"""Runs one repeat, by number; returns its injections."""


def taking_turns(sides: Mapping[str, Side], repeats: int, told: Callable[[str], None]) -> dict[str, list[Timing]]:
    """Every side once per repeat, every other repeat in reverse order."""
    timings: dict[str, list[Timing]] = {name: [] for name in sides}
    gc.collect()
    gc.freeze()  # what is there now need not be looked through again before each piece of work
    for repeat in range(repeats):
        order = list(sides) if repeat % 2 == 0 else list(sides)[::-1]
        for name in order:
            timings[name].append(timed(lambda side=sides[name], number=repeat: side(number)))  # type: ignore[misc]
        told(f"repeat {repeat + 1} of {repeats}: " + ", ".join(f"{n} {t[-1].rate:.1f}/s" for n, t in timings.items()))
    gc.unfreeze()
    return timings


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of the repeats."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"

    def record(self) -> dict[str, float]:
        return {"median": self.median, "quartile_low": self.low, "quartile_high": self.high}


def spread(values: ArrayLike) -> Spread:
    low, median, high = np.quantile(np.asarray(values, np.float64), [0.25, 0.5, 0.75])
    return Spread(float(median), float(low), float(high))


def rates(timings: list[Timing]) -> NDArray[np.float64]:
    return np.array([timing.rate for timing in timings])


def ratio(ours: list[Timing], theirs: list[Timing], scale: float = 1.0) -> Spread:
    """Of rates, repeat by repeat. ``scale``: our injections counted per injection of theirs."""
    return spread(scale * rates(ours) / rates(theirs))


def table(timings: Mapping[str, list[Timing]]) -> dict[str, Any]:
    """Rates and raw timings, for the record."""
    return {
        name: {"per_cpu_second": spread(rates(mine)).record(), "timings": [one.record() for one in mine]}
        for name, mine in timings.items()
    }
