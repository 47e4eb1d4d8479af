"""A worker: opens its engines from the run folder, and turns units of work into result rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.evaluate.choose import evaluator_for, weights_for
from testbed.campaign.evaluate.golden_words import read_words
from testbed.campaign.execute.faults import ActivationFaultRunner, FaultRunner, WeightFaultRunner
from testbed.campaign.execute.rows import flagged
from testbed.campaign.files import words_file
from testbed.campaign.folder.workplace import TargetPlace, Workplace
from testbed.campaign.plan.table import PlanSlice
from testbed.campaign.plan.unit import Unit
from testbed.campaign.plan.units import plan_slice_of, word_counts
from testbed.campaign.results.arrow import to_stream
from testbed.campaign.work.contract import Due, MakeStream
from testbed.core.site import Where


class Worker:
    """A `work.Handler` over one workplace."""

    def __init__(self, workplace: Workplace) -> None:
        self.workplace = workplace
        self._injections: dict[TargetPlace, FaultRunner] = {}
        self._last: tuple[Unit, PlanSlice] | None = None

    def golden(self) -> dict[str, str]:
        return self.workplace.golden_hashes()

    def golden_seconds(self, unit: Unit, faults: int) -> float:
        plan_slice, _ = self._work(unit, None)
        self._inject(plan_slice)  # opens the engine, and its evaluation
        engine = self.workplace.engine(plan_slice.target, plan_slice.where)
        rows = faults * unit.rows / len(unit)
        return engine.seconds_per_batch * math.ceil(rows / engine.batch)

    def run(self, unit: Unit, faults: Sequence[int] | None = None, retried: bool = False) -> bytes:
        return self.evaluate(unit, faults, retried)()

    def evaluate(self, unit: Unit, faults: Sequence[int] | None = None, retried: bool = False) -> MakeStream:
        plan_slice, words = self._work(unit, faults)
        make = self._inject(plan_slice).evaluate(plan_slice, words)
        return lambda: to_stream(flagged(make()) if retried else make())

    def blame(self, unit: Unit, faults: Sequence[int], due: Due) -> bytes:
        plan_slice, words = self._work(unit, faults)
        return to_stream(self._inject(plan_slice).blamed(plan_slice, words, due))

    def engine_seconds(self) -> float:
        return self.workplace.engine_seconds

    def close(self) -> None:
        self.workplace.close()

    def _inject(self, plan_slice: PlanSlice) -> FaultRunner:
        key = (plan_slice.target, plan_slice.where)
        if key not in self._injections:
            self._injections[key] = fault_runner_for(self.workplace, *key)
        return self._injections[key]

    def _plan_slice(self, unit: Unit) -> PlanSlice:
        """The unit's faults: kept from when it was asked how long they would take until they are run."""
        if self._last is None or self._last[0] != unit:
            self._last = unit, plan_slice_of(self.workplace.folder / unit.plan, unit.start, unit.stop)
        return self._last[1]

    def _work(self, unit: Unit, faults: Sequence[int] | None) -> tuple[PlanSlice, NDArray[np.uint32]]:
        """The faults of a unit, or some of them, with their golden words."""
        plan_slice = self._plan_slice(unit)
        if not unit.words:
            words = np.zeros(0, np.uint32)
        else:
            words = read_words(self.workplace.folder / words_file(unit.plan))[unit.word : unit.word + unit.words]
        if faults is None:
            return plan_slice, words
        counts = word_counts(plan_slice.table, len(self.workplace.images))
        ends = np.cumsum(counts)
        kept = [words[ends[fault] - counts[fault] : ends[fault]] for fault in faults]
        return plan_slice.take(faults), np.concatenate(kept)


def open_worker(folder: str) -> Worker:
    """Opens a worker in a process of its own, from nothing but the folder."""
    return Worker(Workplace.at(Path(folder)))


def fault_runner_for(workplace: Workplace, target: str, where: Where) -> FaultRunner:
    engine = workplace.engine(target, where)
    judge, on_detected = workplace.judge, workplace.spec.protection.on_detected
    if where == "weight":
        return WeightFaultRunner(engine, judge, weights_for(workplace, engine), on_detected)
    return ActivationFaultRunner(engine, evaluator_for(workplace, engine), judge, on_detected)
