"""Result rows of faults: activation faults through an evaluator, weight faults one at a time over their images.

What an engine gave is judged, and its rows made, without the engine, which can run the next faults meanwhile. A row's bits do
not depend on which other rows are run, on the order of work, or on a restart: the batch size is frozen, and what is judged is
one row against its engine's golden.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from testbed.analysis.outputs.outcome import Outcomes
from testbed.campaign.evaluate.contract import Evaluated, Evaluator, Injections, RunWhole, gathered
from testbed.campaign.evaluate.injections import injections_of, with_golden_words
from testbed.campaign.evaluate.whole import whole_weights
from testbed.campaign.execute.rows import Injected, RowFacts, result_rows, unknown_outcomes
from testbed.campaign.execute.second_runs import SecondRuns, fault_free
from testbed.campaign.folder.engine import CampaignEngine
from testbed.campaign.folder.judge import Judge
from testbed.campaign.plan.table import PlanSlice
from testbed.campaign.spec.tables import OnDetected
from testbed.core.arrays import Int64s, Words32
from testbed.core.outcome import How
from testbed.engines.runner import WeightFault, WeightInjector
from testbed.instrument.ports.feed import to_words
from testbed.semantics import corrupt

_JUDGED_BYTES = 2**20  # of outputs, at a time

MakeRows = Callable[[], pa.Table]
"""Judges what an engine gave, and makes its rows; the engine is not run."""


class FaultRunner(ABC):
    """Runs faults of one kind of place in one engine. on_detected: what follows an alarm of the engine's own checks."""

    waiting_bytes = 8 * _JUDGED_BYTES
    """Of outputs that wait to be judged by `evaluate`'s caller, at most."""

    def __init__(self, engine: CampaignEngine, judge: Judge, on_detected: OnDetected) -> None:
        self.engine, self.judge, self.on_detected = engine, judge, on_detected

    def rows(self, plan_slice: PlanSlice, words: Words32) -> pa.Table:
        """Result rows of all the plan slice's faults, in plan order, images in campaign order under each."""
        return self._run(plan_slice, words)()

    def evaluate(self, plan_slice: PlanSlice, words: Words32) -> MakeRows:
        """Runs the faults: all that needs the engine. Their `rows` can be made in another thread while the engine goes on."""
        _ = self.engine.side  # may run the golden
        make = self._run(plan_slice, words)
        return make if self.on_detected == "none" else made_at_once(make)  # alarms are followed by second runs

    @abstractmethod
    def _run(self, plan_slice: PlanSlice, words: Words32) -> MakeRows:
        """Runs the faults; what is given back makes their rows, and may use the engine for second runs alone."""

    @abstractmethod
    def blamed(self, plan_slice: PlanSlice, words: Words32, due: str) -> pa.Table:
        """The rows of faults that the engine did not survive; nothing is run."""


def made_at_once(make: MakeRows) -> MakeRows:
    """What gives rows that are made now."""
    table = make()
    return lambda: table


class ActivationFaultRunner(FaultRunner):
    """Faults that strike tensors while the engine runs. words: golden words (see `injections.with_golden_words`).

    Faults that strike every image lie outside the weights: they are there in a second run, too.
    """

    def __init__(
        self, engine: CampaignEngine, evaluator: Evaluator, judge: Judge, on_detected: OnDetected = "none"
    ) -> None:
        super().__init__(engine, judge, on_detected)
        self.evaluator = evaluator

    def _run(self, plan_slice: PlanSlice, words: Words32) -> MakeRows:
        fault, injections = self._injections(plan_slice, words)
        parts = self._parts(injections)
        return partial(self._table, plan_slice, fault, injections, parts)

    def _parts(self, injections: Injections) -> list[Evaluated | _OutcomesPart]:
        """Piece by piece, so that outputs of many elements are never all in memory: what is too much to wait is judged at
        once. Not too small pieces, as each costs."""
        parts: list[Evaluated | _OutcomesPart] = []
        waiting = 0
        for evaluated in gathered(self.evaluator.evaluate(injections), _JUDGED_BYTES):
            waiting += evaluated.outputs.nbytes
            parts.append(evaluated if waiting <= self.waiting_bytes else self._judged(evaluated, injections))
        return parts

    def _table(
        self,
        plan_slice: PlanSlice,
        fault: Int64s,
        injections: Injections,
        evaluated: list[Evaluated | _OutcomesPart],
    ) -> pa.Table:
        parts = [self._judged(part, injections) if isinstance(part, Evaluated) else part for part in evaluated]
        order = np.argsort(np.concatenate([part.rows for part in parts]), kind="stable")
        outcomes = joined_outcomes([part.outcomes for part in parts], order)
        injected = Injected(
            _known(fault, injections),
            logits=_joined([part.logits for part in parts], order),
            how=np.concatenate([part.how for part in parts])[order],
            bound=np.concatenate([part.bound for part in parts])[order],
            second=self._second(plan_slice, fault, injections, outcomes),
        )
        return result_rows(plan_slice.table, injected, outcomes, self.engine.images, self.engine.runner.info)

    def blamed(self, plan_slice: PlanSlice, words: Words32, due: str) -> pa.Table:
        known = _known(*self._injections(plan_slice, words))
        return _blamed(self.engine, self.judge, plan_slice, known, due)

    def _injections(self, plan_slice: PlanSlice, words: Words32) -> tuple[NDArray[np.int64], Injections]:
        """(n,) which fault of the plan slice each strike belongs to, and the strikes with their golden words."""
        fault, injections = injections_of(plan_slice, self.engine.table, self.engine.images)
        return fault, with_golden_words(injections, words)

    def _second(
        self, plan_slice: PlanSlice, fault: NDArray[np.int64], injections: Injections, outcomes: Outcomes
    ) -> SecondRuns | None:
        if self.on_detected == "none":
            return None
        lasts = plan_slice.lasting[fault]

        def run_again(rows: NDArray[np.int64]) -> NDArray[np.float32]:
            outputs = np.empty((len(rows), *self.engine.golden.shape[1:]), np.float32)
            outputs[~lasts[rows]] = fault_free(self.engine, injections.image[rows[~lasts[rows]]])
            again = np.flatnonzero(lasts[rows])
            if len(again):
                for evaluated in self.evaluator.evaluate(injections.take(rows[again])):
                    outputs[again[evaluated.rows]] = evaluated.outputs
            return outputs

        return SecondRuns.of(self.engine, self.judge, outcomes, injections.image, run_again)

    def _judged(self, evaluated: Evaluated, injections: Injections) -> _OutcomesPart:
        outcomes = self.judge.outcomes(self.engine, evaluated.outputs, injections.image[evaluated.rows])
        logits = self.engine.judged(evaluated.outputs).values if self.engine.side.has_classes else None
        return _OutcomesPart(evaluated.rows, evaluated.how, evaluated.bound, outcomes, logits)


def _known(fault: NDArray[np.int64], injections: Injections) -> RowFacts:
    """What is known of the first struck element of each injection. fault: (n,)."""
    ports = injections.ports
    return RowFacts(fault, injections.image, ports.golden[:, 0], ports.faulty[:, 0])


class _OutcomesPart(NamedTuple):
    """What `Evaluated` says of its strikes, with their outcomes in the place of their outputs."""

    rows: Int64s
    how: NDArray[np.int8]
    bound: NDArray[np.float32]
    outcomes: Outcomes
    logits: NDArray[np.float32] | None


class WeightFaultRunner(FaultRunner):
    """Runs weight faults one at a time, each over its images: all named ones, or those that were drawn for it.

    run_whole: gives the outputs while some weights are struck; the whole engine's unless a faster one is given.
    """

    def __init__(
        self,
        engine: CampaignEngine,
        judge: Judge,
        run_whole: RunWhole | None = None,
        on_detected: OnDetected = "none",
    ) -> None:
        super().__init__(engine, judge, on_detected)
        self._run_whole = run_whole or whole_weights(engine)

    def _run(self, plan_slice: PlanSlice, words: Words32) -> MakeRows:
        fault, image = self.engine.images.of_faults(plan_slice.table)
        images = np.split(image, np.flatnonzero(np.diff(fault)) + 1)
        places = plan_slice.points.all_weights(self.engine.table)
        faulty = [self._faulty(*injection) for injection in zip(places, images, strict=True)]
        make = partial(self._table, plan_slice, fault, image, faulty)
        return make if sum(run.outputs.nbytes for run in faulty) <= self.waiting_bytes else made_at_once(make)

    def _table(self, plan_slice: PlanSlice, fault: Int64s, image: Int64s, faulty: list[FaultyOutputs]) -> pa.Table:
        outputs = np.concatenate([injected.outputs for injected in faulty])
        outcomes = self.judge.outcomes(self.engine, outputs, image)
        injected = Injected(
            RowFacts(fault, image, *_first_words(faulty, fault)),
            logits=self.engine.judged(outputs).values if self.engine.side.has_classes else None,
            how=np.array([injected.how for injected in faulty], np.int8)[fault],
            bound=np.zeros(len(image), np.float32),
            second=self._second(plan_slice, fault, image, outcomes),
        )
        return result_rows(plan_slice.table, injected, outcomes, self.engine.images, self.engine.runner.info)

    def blamed(self, plan_slice: PlanSlice, words: Words32, due: str) -> pa.Table:
        fault, image = self.engine.images.of_faults(plan_slice.table)
        faulty = [self._fault_words(plan_slice, number) for number in range(len(plan_slice))]
        known = RowFacts(fault, image, *_first_words(faulty, fault))
        return _blamed(self.engine, self.judge, plan_slice, known, due)

    def _second(self, plan_slice: PlanSlice, fault: Int64s, image: Int64s, outcomes: Outcomes) -> SecondRuns | None:
        if self.on_detected == "none":
            return None

        def run_again(rows: NDArray[np.int64]) -> NDArray[np.float32]:
            if self.on_detected == "reload":
                return fault_free(self.engine, image[rows])
            outputs = np.empty((len(rows), *self.engine.golden.shape[1:]), np.float32)
            for number in np.unique(fault[rows]):
                again = np.flatnonzero(fault[rows] == number)
                outputs[again] = self.inject(plan_slice, int(number), image[rows[again]]).outputs
            return outputs

        return SecondRuns.of(self.engine, self.judge, outcomes, image, run_again)

    def inject(self, plan_slice: PlanSlice, fault: int, images: Int64s) -> FaultyOutputs:
        """Runs a fault on some images, rows of the named ones. Raises EngineError."""
        return self._faulty(plan_slice.points.weights(fault, self.engine.table), images)

    def _faulty(self, places: list[WeightFault], images: Int64s) -> FaultyOutputs:
        every = len(images) == len(self.engine.images)  # each once, in their order
        faulty = self._run_whole(places, None if every else images)
        before, after = faulty.words[0]
        return FaultyOutputs(faulty.outputs, to_words(before), to_words(after), faulty.how)

    def _fault_words(self, plan_slice: PlanSlice, fault: int) -> FaultyOutputs:
        runner = self.engine.runner
        assert isinstance(runner, WeightInjector)
        injected = plan_slice.points.weights(fault, self.engine.table)[0]
        before = runner.weight(injected.tensor).reshape(-1)[injected.index]
        after = corrupt(before, injected.and_mask, injected.or_mask, injected.xor_mask)
        return FaultyOutputs(self.engine.golden, to_words(before), to_words(after), How.WHOLE)


class FaultyOutputs(NamedTuple):
    """What one weight fault gives. outputs: of its images (n, ...); words of the first struck tensor, before and after."""

    outputs: NDArray[np.float32]
    before: Words32
    after: Words32
    how: How


def _first_words(injected: list[FaultyOutputs], fault: Int64s) -> tuple[Words32, Words32]:
    """(n,) words before and after of the first struck element of each row's fault. fault: (n,)."""
    return (
        np.array([outputs.before[0] for outputs in injected], np.uint32)[fault],
        np.array([outputs.after[0] for outputs in injected], np.uint32)[fault],
    )


def _blamed(engine: CampaignEngine, judge: Judge, plan_slice: PlanSlice, known: RowFacts, due: str) -> pa.Table:
    n = len(known.fault)
    logits = np.full((n, *engine.side.stored.shape[1:]), np.nan, np.float32) if engine.side.has_classes else None
    injected = Injected(known, logits, np.full(n, How.WHOLE, np.int8), np.zeros(n, np.float32), due)
    outcomes = unknown_outcomes(engine.side.take(known.image), len(judge.rtol_grid))
    return result_rows(plan_slice.table, injected, outcomes, engine.images, engine.runner.info)


def _joined(parts: list[NDArray[np.float32] | None], order: NDArray[np.int64]) -> NDArray[np.float32] | None:
    filled = [part for part in parts if part is not None]
    return np.concatenate(filled)[order] if filled else None


def joined_outcomes(parts: list[Outcomes], order: NDArray[np.int64]) -> Outcomes:
    """All parts' rows, in ``order``."""
    joined: dict[str, Any] = {}
    for field in fields(Outcomes):
        columns = [getattr(part, field.name) for part in parts]
        joined[field.name] = None if columns[0] is None else np.concatenate(columns)[order]
    return Outcomes(**joined)
