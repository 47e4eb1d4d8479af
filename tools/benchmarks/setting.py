"""What every workload of a benchmark is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.clock import Timing, rates
from benchmarks.ours import Ours
from benchmarks.subject import Subject
from benchmarks.verdict import Tolerance

PEER_BATCHES = (1, 4, 8, 16)


@dataclass(frozen=True)
class Setting:
    """``engines``: ours, by name. ``faults``: how many of a workload; ``told``: takes a line of progress."""

    subject: Subject
    engines: Mapping[str, Ours]
    tolerance: Tolerance
    faults: Mapping[str, int]
    repeats: int
    seed: int
    told: Callable[[str], None]

    @property
    def first(self) -> Ours:
        return next(iter(self.engines.values()))


def faster(timings: Mapping[str, list[Timing]], prefix: str, engines: Mapping[str, Ours]) -> str:
    """The engine of ours with the higher median rate among the sides "PREFIX ENGINE"."""
    return max(engines, key=lambda name: float(np.median(rates(timings[f"{prefix} {name}"]))))


def parts(count: int, repeats: int) -> list[NDArray[np.int64]]:
    """The list in as many parts as there are repeats."""
    return list(np.array_split(np.arange(count), repeats))
