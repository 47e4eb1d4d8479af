"""Batch size, threads and the size of a unit of work: measured once when a campaign begins, then frozen.

They are part of what decides an output's last bits (batch, threads) and of how much a kill can cost (the unit).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.facts import TuneFacts
from testbed.campaign.spec.campaign import EngineSpec
from testbed.core.site import SiteTable
from testbed.engines.runner import Runner, open_engine
from testbed.engines.weights import request_from
from testbed.golden.arrays import read_array
from testbed.instrument.ports.feed import PortFeed
from testbed.instrument.shapes import input_name

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


@dataclass(frozen=True)
class Tuning:
    """What is tuned for. most_points: of one row's fault; influence: why each row is run alone, empty where none is."""

    engine: EngineSpec
    most_points: int
    influence: str

    def to_json(self) -> dict[str, Any]:
        """All of it that the result depends on."""
        engine = self.engine.model_dump(mode="json", include={"backend", "precision", "batch", "threads", "unit"})
        return {"engine": engine, "most_points": self.most_points, "influence": self.influence}


def tune_twin(asked: Tuning, twin: Path, inputs_file: Path, table: SiteTable) -> TuneFacts:
    """Tunes the engine of an instrumented file with no fault armed. inputs_file: of the named images, (n, ...)."""
    engine, inputs, name = asked.engine, read_array(inputs_file), input_name(twin.read_bytes())

    def opened(batch: int, threads: int) -> Runner:
        request = request_from(
            twin,
            table.deployment_id,
            precision=engine.precision,
            threads=threads,
            max_batch=batch,
            max_points=asked.most_points,
        )
        return open_engine(engine.backend, request)

    def feeds(batch: int) -> dict[str, NDArray]:
        rows = np.arange(batch) % len(inputs)
        return {name: inputs[rows], **PortFeed.idle(batch).as_inputs(table)}

    if not asked.influence:
        return tune(engine, opened, feeds)
    alone = tune(engine.model_copy(update={"batch": 1}), opened, feeds)
    return alone.model_copy(update={"why_batch": asked.influence})


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
