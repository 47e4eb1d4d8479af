"""Latencies measured side by side: every round runs each subject once, so that a slow moment of the machine is everybody's."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WARM_UP_S, LEAST_S, LEAST_RUNS = 0.2, 3.0, 100
LEAST_ROUNDS = 6  # whose resampled medians say anything: of n rounds, the 95 % limits are among the sample's own values
PERCENTILES = (50, 90, 95, 99)
_RESAMPLES = 2000


@dataclass(frozen=True)
class Budget:
    """Each subject is measured for at least ``seconds``, or ``runs`` runs: whichever takes less, but `LEAST_ROUNDS` runs
    whatever the seconds."""

    warm_up_s: float = WARM_UP_S
    seconds: float = LEAST_S
    runs: int = LEAST_RUNS


def interleaved(
    subjects: Sequence[Callable[[], object]], budget: Budget, clock: Callable[[], int] = time.perf_counter_ns
) -> list[NDArray[np.float64]]:
    """Milliseconds of each run of each subject, (runs,) each, all of one length. The order within a round is turned by
    one each time: whoever follows a given subject is not always the same."""
    for run in subjects:
        begin = clock()
        run()
        while (clock() - begin) / 1e9 < budget.warm_up_s:
            run()
    samples: list[list[int]] = [[] for _ in subjects]
    spent_ns = [0] * len(subjects)
    collecting = gc.isenabled()
    gc.disable()  # a collection would be one subject's bad luck
    try:
        while len(samples[0]) < budget.runs and (
            len(samples[0]) < LEAST_ROUNDS or min(spent_ns) / 1e9 < budget.seconds
        ):
            first = len(samples[0]) % len(subjects)
            for turn in range(len(subjects)):
                number = (first + turn) % len(subjects)
                begin = clock()
                subjects[number]()
                took = clock() - begin
                samples[number].append(took)
                spent_ns[number] += took
    finally:
        if collecting:
            gc.enable()
    return [np.array(times, np.float64) / 1e6 for times in samples]


def percentiles(latency_ms: NDArray[np.float64]) -> dict[str, float]:
    values = np.percentile(latency_ms, PERCENTILES)
    return {f"p{p}_ms": float(value) for p, value in zip(PERCENTILES, values, strict=True)}


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians, with a bootstrap interval over the rounds; None below `LEAST_ROUNDS` of them."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        """ "0.576 [0.565, 0.584]"."""
        if self.low is None:
            return f"{self.value:.3f} (too few rounds for an interval)"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def ratio_to(baseline_ms: NDArray[np.float64], latency_ms: NDArray[np.float64], confidence: float = 0.95) -> Ratio:
    """Median latency over the baseline's; rounds (n,) of both are resampled together, as they were run together."""
    value = float(np.median(latency_ms) / np.median(baseline_ms))
    if len(latency_ms) < LEAST_ROUNDS:
        return Ratio(value, None, None)
    rng = np.random.default_rng(0)
    rows = rng.integers(len(latency_ms), size=(_RESAMPLES, len(latency_ms)))
    ratios = np.median(latency_ms[rows], axis=1) / np.median(baseline_ms[rows], axis=1)
    low, high = np.quantile(ratios, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Ratio(value, float(low), float(high))
