"""Runs faults in a compiled engine: many different activation faults per batch, or one weight fault over all images.

Both kinds of leg share the batch size, the padding and the golden of their engine, so a row's bits do not depend on
which
other rows are run, on the order of work, or on a restart.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from testbed.analysis.outcome import GoldenSide, classify
from testbed.campaign.images import Inputs, NamedImages
from testbed.campaign.plan import Leg
from testbed.campaign.rows import Injected, result_rows
from testbed.core.errors import EngineError, TestbedError
from testbed.core.fault import Masks
from testbed.core.site import SiteTable
from testbed.engines.runner import Runner, WeightStriker, struck_weight
from testbed.instrument.feed import PortFeed, Words, feed_sites, live_words, to_words
from testbed.semantics import corrupt

ROWS_PER_UNIT = 1024


@dataclass(frozen=True)
class Judge:
    """How outputs become outcomes. atol: (tiers,)."""

    atol: NDArray[np.float64]
    rtol: float
    rtol_grid: tuple[float, ...]
    detector: str


@dataclass
class Bench:
    """One engine with its inputs: the target's, for the named images. ``reopen`` builds a fresh one of the same
    kind."""

    target: str
    table: SiteTable
    runner: Runner
    reopen: Callable[[], Runner]
    inputs: Inputs
    input_name: str
    output_name: str
    images: NamedImages
    batch: int
    engine_seconds: float = field(default=0.0)

    def run(self, rows: NDArray[np.int64], ports: PortFeed | None) -> tuple[NDArray[np.float32], Words | None]:
        """Outputs (b, ...) and, from a twin, the live words at the struck elements (b,). At most ``batch`` rows."""
        n = len(rows)
        idle = self.batch - n
        padded = np.concatenate([rows, np.zeros(idle, np.int64)]) if idle else rows
        feeds = {self.input_name: self.inputs(padded)}
        if ports is not None:
            feeds |= ports.padded(self.batch).as_inputs(self.table)
        start = time.perf_counter()
        results = self.runner.run(feeds)
        self.engine_seconds += time.perf_counter() - start
        return results[self.output_name][:n], None if ports is None else live_words(results, self.table, ports.site)

    def outputs(self, twin: bool) -> NDArray[np.float32]:
        """Fault-free outputs of all named images (n, ...), in the campaign's batches."""
        parts = []
        for start in range(0, len(self.images), self.batch):
            rows = np.arange(start, min(start + self.batch, len(self.images)))
            parts.append(self.run(rows, PortFeed.idle(len(rows)) if twin else None)[0])
        return np.concatenate(parts)

    def restart(self) -> None:
        self.runner.close()
        self.runner = self.reopen()


class ActivationLeg:
    """Faults that last one inference: one per batch row, many different ones per batch."""

    def __init__(self, bench: Bench, leg: Leg, golden_words: Words, judge: Judge) -> None:
        """golden_words: (faults,) bits of the engine's value at each struck element, without the fault."""
        self.bench, self.leg, self.judge = bench, leg, judge
        self.golden = bench.outputs(twin=True)
        self._side = GoldenSide.of(self.golden, has_classes=bench.target == "model")
        self._ports = feed_sites(bench.table, leg.sites)
        self._images = bench.images.rows(leg.image_ids)
        self._index = leg.column("index")
        self.golden_words = golden_words
        self.faulty_words = corrupt(golden_words, *leg.masks)

    @property
    def units(self) -> int:
        return -(-len(self.leg) // self.faults_per_unit)

    @property
    def faults_per_unit(self) -> int:
        return max(1, ROWS_PER_UNIT // self.bench.batch) * self.bench.batch

    def run_unit(self, unit: int) -> pa.Table:
        """Result rows of one unit of work. Raises EngineError when the engine is not deterministic."""
        first = unit * self.faults_per_unit
        faults = np.arange(first, min(first + self.faults_per_unit, len(self.leg)))
        done = [
            self._run(faults[start : start + self.bench.batch]) for start in range(0, len(faults), self.bench.batch)
        ]
        outputs = np.concatenate([d[0] for d in done])
        failed, retried = np.concatenate([d[1] for d in done]), np.concatenate([d[2] for d in done])
        images = self._images[faults]
        injected = Injected(
            faults, images, self.golden_words[faults], self.faulty_words[faults], outputs, failed, retried
        )
        return _judged(self.bench, self.leg, injected, self._side, self.judge)

    def _run(self, faults: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
        """(outputs, failed, retried) of one batch; if the engine fails, each fault is run alone, on a fresh engine."""
        nobody = np.zeros(len(faults), bool)
        try:
            return self.inject(faults), nobody, nobody
        except EngineError:
            alone = [self._alone(int(fault)) for fault in faults]
        outputs = np.concatenate([output for output, _ in alone])
        failed = np.array([bad for _, bad in alone])
        return outputs, failed, ~failed

    def _alone(self, fault: int) -> tuple[NDArray[np.float32], bool]:
        self.bench.restart()
        try:
            return self.inject(np.array([fault])), False
        except EngineError:
            self.bench.restart()
            return np.full_like(self.golden[:1], np.nan), True

    def inject(self, faults: NDArray[np.int64]) -> NDArray[np.float32]:
        """Faulty outputs (b, ...) of at most one batch of the leg's faults. Raises EngineError, NotDeterministic."""
        keep, put, turn = (mask[faults] for mask in self.leg.masks)
        feed = PortFeed(self._ports[faults], self._index[faults], keep, put, turn, self.golden_words[faults])
        outputs, live = self.bench.run(self._images[faults], feed)
        assert live is not None
        wrong = np.flatnonzero(live[:, 0] != self.golden_words[faults])
        if len(wrong):
            fault = faults[wrong[0]]
            raise NotDeterministic(
                f"{self.leg.sites[fault]}[{self._index[fault]}] was {live[wrong[0], 0]:#x} in the engine and"
                f" {self.golden_words[fault]:#x} in its golden run: this engine is not deterministic at these settings"
            )
        return outputs


class NotDeterministic(TestbedError):
    """Not an engine failure of one fault: no row of this engine can be trusted."""


class _Struck(NamedTuple):
    outputs: NDArray[np.float32]
    before: Words
    after: Words
    failed: bool
    retried: bool


class WeightLeg:
    """Faults that last: one struck weight at a time, over all named images."""

    def __init__(self, bench: Bench, leg: Leg, judge: Judge) -> None:
        self.bench, self.leg, self.judge = bench, leg, judge
        self.golden = bench.outputs(twin=False)
        self._side = GoldenSide.of(self.golden, has_classes=bench.target == "model")
        self._index = leg.column("index")

    @property
    def units(self) -> int:
        return -(-len(self.leg) // self.faults_per_unit)

    @property
    def faults_per_unit(self) -> int:
        return max(1, ROWS_PER_UNIT // len(self.bench.images))

    def run_unit(self, unit: int) -> pa.Table:
        """Result rows of one unit of work: fault after fault, images in campaign order."""
        first = unit * self.faults_per_unit
        faults = np.arange(first, min(first + self.faults_per_unit, len(self.leg)))
        done = [self._run(int(fault)) for fault in faults]
        n = len(self.bench.images)
        injected = Injected(
            fault=np.repeat(faults, n),
            image=np.tile(np.arange(n), len(faults)),
            golden_word=np.repeat(np.concatenate([d.before for d in done]), n),
            faulty_word=np.repeat(np.concatenate([d.after for d in done]), n),
            outputs=np.concatenate([d.outputs for d in done]),
            failed=np.repeat([d.failed for d in done], n),
            retried=np.repeat([d.retried for d in done], n),
        )
        return _judged(self.bench, self.leg, injected, self._side, self.judge)

    def _run(self, fault: int) -> _Struck:
        """One fault; if the engine fails, once more on a fresh one before the fault is blamed."""
        for retried in (False, True):
            try:
                return _Struck(*self.inject(fault), failed=False, retried=retried)
            except EngineError:
                self.bench.restart()
        return _Struck(np.full_like(self.golden, np.nan), *self._words(fault), failed=True, retried=False)

    def _place(self, fault: int) -> tuple[str, int, Masks]:
        site = self.bench.table[self.leg.sites[fault]]
        masks = Masks(*(int(mask[fault]) for mask in self.leg.masks))
        return site.tensor, site.stored_index(int(self._index[fault])), masks

    def inject(self, fault: int) -> tuple[NDArray[np.float32], Words, Words]:
        """Faulty outputs of all named images (n, ...), word before, word after (1,). Raises EngineError."""
        runner = self.bench.runner
        assert isinstance(runner, WeightStriker)
        with struck_weight(runner, *self._place(fault)) as (before, after):
            return self.bench.outputs(twin=False), to_words(before), to_words(after)

    def _words(self, fault: int) -> tuple[Words, Words]:
        runner = self.bench.runner
        assert isinstance(runner, WeightStriker)
        tensor, index, masks = self._place(fault)
        before = runner.weight(tensor).reshape(-1)[index : index + 1].copy()
        return to_words(before), to_words(corrupt(before, *masks))


def _judged(bench: Bench, leg: Leg, injected: Injected, side: GoldenSide, judge: Judge) -> pa.Table:
    outcomes = classify(
        injected.outputs,
        side.take(injected.image),
        judge.atol[bench.images.tiers[injected.image]],
        judge.rtol,
        judge.rtol_grid,
        has_classes=side.has_classes,
        detector=judge.detector,
    )
    return result_rows(leg.table, injected, outcomes, bench.images, bench.runner.info)
