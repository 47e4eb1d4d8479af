"""An engine of a campaign: with its inputs, in batches of one frozen size, its golden run once and kept."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from testbed.analysis.outputs.outcome import GoldenSide
from testbed.campaign.folder.images import Inputs, NamedImages
from testbed.core.arrays import Int64s, Words32
from testbed.core.site import SiteTable, Where
from testbed.engines.batches import pad_rows
from testbed.engines.runner import Runner
from testbed.instrument.packed import JudgedOutputs
from testbed.instrument.ports.feed import PortFeed, live_words

_WARM_RUNS = 2


@dataclass
class CampaignEngine:
    """One engine with its inputs: the target's, for the named images. ``where``: what it is there to strike; the engine
    of activations is the twin."""

    target: str
    where: Where
    table: SiteTable
    runner: Runner
    inputs: Inputs
    input_name: str
    output_name: str
    images: NamedImages
    batch: int
    engine_seconds: float = field(default=0.0)
    _last_run_s: float = field(default=0.0, init=False)
    _runs: int = field(default=0, init=False)

    def run(self, rows: NDArray[np.int64], ports: PortFeed | None) -> tuple[NDArray[np.float32], Words32 | None]:
        """Outputs (b, ...) and, from a twin, the live words at the struck elements (b, K). At most ``batch`` rows."""
        n = len(rows)
        feeds = {self.input_name: self.inputs(pad_rows(rows, self.batch))}
        if ports is not None:
            feeds |= ports.padded(self.batch).as_inputs(self.table)
        start = time.perf_counter()
        results = self.runner.run(feeds)
        self._last_run_s = time.perf_counter() - start
        self._runs += 1
        self.engine_seconds += self._last_run_s
        return results[self.output_name][:n], None if ports is None else live_words(results, self.table, ports.site)

    def on(self, runner: Runner) -> CampaignEngine:
        """The same with another engine, whose golden is its own."""
        return replace(self, runner=runner, engine_seconds=0.0)

    def outputs(self, images: Int64s | None = None) -> NDArray[np.float32]:
        """Outputs (n, ...) as the engine is now, in its batches; no port is armed. images: rows of the named ones; all
        unless said."""
        images, twin, parts = np.arange(len(self.images)) if images is None else images, self.where == "activation", []
        for start in range(0, len(images), self.batch):
            rows = images[start : start + self.batch]
            parts.append(self.run(rows, PortFeed.idle(len(rows)) if twin else None)[0])
        return np.concatenate(parts)

    @cached_property
    def golden(self) -> NDArray[np.float32]:
        """(images, ...): the outputs that faults are judged against, with the alarms behind them where it raises any."""
        return self.outputs()

    def judged(self, outputs: NDArray[np.float32]) -> JudgedOutputs:
        """Its outputs apart from the alarms of its own checks."""
        return JudgedOutputs.of(outputs, self.output_name)

    @cached_property
    def seconds_per_batch(self) -> float:
        """Duration of a run, once the engine is warm: after the golden's batches it mostly is."""
        while self._runs < _WARM_RUNS:
            self.run(np.zeros(self.batch, np.int64), PortFeed.idle(self.batch) if self.where == "activation" else None)
        return self._last_run_s

    @cached_property
    def side(self) -> GoldenSide:
        return GoldenSide.of(self.judged(self.golden).values, has_classes=self.target == "model")
