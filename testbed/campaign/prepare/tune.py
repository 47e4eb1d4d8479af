"""Batch size, threads and the size of a unit of work: measured once when a campaign begins, then frozen.

They are part of what decides an output's last bits (batch, threads) and of how much a kill can cost (the unit).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.facts import TuneFacts
from testbed.campaign.spec.campaign import EngineSpec
from testbed.engines.runner import Runner

AUTO = "auto"
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
_UNIT_SECONDS = 5.0
_LEAST_ROWS, _MOST_ROWS = 64, 4096
_GOOD_ENOUGH = 0.97  # of the best rate: the smallest such batch loses least to padding
_LONGEST_SECONDS = 4.0  # of one batch; larger ones are not tried
_REPEATS = 3

Opened = Callable[[int, int], Runner]
"""(batch, threads) -> an engine."""
Feeds = Callable[[int], dict[str, NDArray]]
"""batch -> what it is fed."""


def tune(engine: EngineSpec, opened: Opened, feeds: Feeds) -> TuneFacts:
    """Only what the spec leaves open is tried out."""
    threads = [engine.threads] if engine.threads != AUTO else _powers(os.cpu_count() or 1)
    batches = [engine.batch] if engine.batch != AUTO else list(_BATCHES)
    rates: dict[tuple[int, int], float] = {}
    tried = [(int(batch), int(count)) for count in threads for batch in batches]
    slow: set[int] = set()  # thread counts at which a batch took too long
    for batch, count in tried:
        if count not in slow:
            seconds = _seconds_per_batch(opened(batch, count), feeds(batch))
            rates[batch, count] = batch / seconds / count  # per thread: workers share the machine
            if seconds > _LONGEST_SECONDS:
                slow.add(count)
    best = max(rates.values())
    batch, count = next(setting for setting, rate in sorted(rates.items()) if rate >= _GOOD_ENOUGH * best)
    rows = engine.unit or int(np.clip(rates[batch, count] * count * _UNIT_SECONDS, _LEAST_ROWS, _MOST_ROWS))
    return TuneFacts(batch=batch, threads=count, unit_rows=max(1, rows // batch) * batch)


def _seconds_per_batch(runner: Runner, feeds: dict[str, NDArray]) -> float:
    with runner:
        runner.run(feeds)
        times = []
        for _ in range(_REPEATS):
            start = time.perf_counter()
            runner.run(feeds)
            times.append(time.perf_counter() - start)
    return min(times)


def _powers(most: int) -> list[int]:
    return [1 << power for power in range(most.bit_length()) if 1 << power <= most]
