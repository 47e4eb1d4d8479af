"""Runs a plan, or the rounds of an adaptive one: units to the pool, their rows to the log, the log to one table."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from testbed.analysis.stratified import StratumTally
from testbed.campaign.evaluate.golden_words import write_plan_words
from testbed.campaign.facts import ExecuteFacts
from testbed.campaign.files import PLAN, RESULTS, plan_file
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.plan.adaptive import AdaptivePlanner
from testbed.campaign.plan.points import points_path
from testbed.campaign.plan.table import PlanPart, read_plan, write_plan
from testbed.campaign.plan.unit import Unit
from testbed.campaign.plan.units import units_of
from testbed.campaign.results.compaction import Compaction
from testbed.campaign.results.progress import FinishedUnits, Progress
from testbed.campaign.results.reader import RESULT_SCHEMA
from testbed.campaign.results.row_weights import RowWeights
from testbed.campaign.results.snapshot import Widest, widest_domain
from testbed.campaign.results.store import ResultStore
from testbed.campaign.stop_facts import StopFacts
from testbed.campaign.work.contract import Report, WorkerPool
from testbed.campaign.work.spans import Spans
from testbed.core.errors import TestbedError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Round:
    """One plan file, cut into units."""

    plan: str
    units: tuple[Unit, ...]

    @property
    def faults(self) -> int:
        return sum(len(unit) for unit in self.units)


class PlanSource(Protocol):
    """Where the next plan comes from. rounds: whether it follows from the rows of earlier ones. widest: the interval that
    is widest after the completed rounds, None before the first."""

    rounds: bool
    widest: Widest | None

    def next(self, done: Sequence[Round], store: ResultStore) -> str | None:
        """Name of the plan file after these completed rounds; None when there is no more to do."""

    def finish(self, done: Sequence[Round]) -> StopFacts | None:
        """Once all rounds are done: what they reached (`ExecuteFacts.stop`); None where there was one plan."""


class OnePlan:
    """Everything was planned before."""

    rounds = False
    widest: Widest | None = None

    def next(self, done: Sequence[Round], store: ResultStore) -> str | None:
        return None if done else PLAN

    def finish(self, done: Sequence[Round]) -> None:
        """There is nothing to tell of rounds."""


class AdaptivePlans:
    """Each round follows from the rows of the completed ones, so that a campaign that was killed goes on as if it had not
    been. ``finish`` writes all rounds as one plan, in which populations are what their faults came to stand for."""

    rounds = True

    def __init__(self, workplace: Workplace, planner: AdaptivePlanner) -> None:
        self._workplace, self._planner, self._folder = workplace, planner, workplace.folder.path
        self._counts: list[StratumTally] = []
        self._seconds: list[float | None] = []
        self.widest: Widest | None = None
        self._begun = time.perf_counter()

    def next(self, done: Sequence[Round], store: ResultStore) -> str | None:
        if done:
            last = done[-1]
            rows = store.tables(unit.number for unit in last.units)
            self._counts.append(self._planner.counts_of(read_plan(self._folder / last.plan), rows))
            self._seconds.append(round(time.perf_counter() - self._begun, 3))
            verdict = self._planner.verdict(self._counts)
            domains = [self._planner.facts_of_domain(domain) for domain in verdict.domains]
            self.widest = widest_domain(domains, self._planner.stop, self._planner.spec.confidence)
            log.info("round %d: widest half-width %.4f after %d faults", len(done), verdict.widest, verdict.faults)
        number = len(done)
        plan = plan_file(number)
        if number:
            parts = self._planner.round(number, self._counts)
            if parts is None:
                return None
            write_plan(self._folder / plan, parts)
            write_plan_words(self._workplace, plan)
        return plan

    def finish(self, done: Sequence[Round]) -> StopFacts:
        write_plan(self._folder / PLAN, self._joined(done))
        verdict = self._planner.verdict(self._counts)
        stop = self._planner.stop
        return StopFacts(
            **stop.model_dump(mode="json"),
            rounds=verdict.rounds,
            met=verdict.met,
            widest=verdict.widest,
            gains=self._planner.gains(self._counts),
            history=self._planner.history(self._counts, self._seconds),
        )

    def _joined(self, done: Sequence[Round]) -> Iterator[PlanPart]:
        populations = self._planner.populations(self._counts)
        for round_ in done:
            path = self._folder / round_.plan
            faults = read_plan(path)
            column = faults.schema.get_field_index("population")
            weighed = pa.array(populations[faults.column("stratum").to_numpy()], pa.int64())
            yield PlanPart(
                faults.set_column(column, faults.schema.field(column), weighed), pq.read_table(points_path(path))
            )


def run_plans(
    workplace: Workplace, plans: PlanSource, store: ResultStore, pool: WorkerPool, progress: Progress
) -> ExecuteFacts:
    """Runs every round that is not in the store, compacts the rows, returns facts for the manifest.

    Raises TestbedError when units are left undone, or what the pool raises.
    """
    start, done = time.perf_counter(), list[Round]()
    total, before = Report(), 0
    with ExitStack() as stack:
        ahead = None if plans.rounds else stack.enter_context(_compaction(workplace, store))
        while (plan := plans.next(done, store)) is not None:
            first = sum(len(round_.units) for round_ in done)
            path, images = workplace.folder / plan, len(workplace.images)
            round_ = Round(plan, tuple(units_of(path, plan, images, workplace.tuned.unit_rows, first)))
            before += sum(unit.rows for unit in round_.units if unit.number in store)
            total += run_round(round_, len(done), store, pool, progress, plans, ahead)
            done.append(round_)
        stop = plans.finish(done)
        compaction = ahead or stack.enter_context(_compaction(workplace, store))
        rows = compaction.finish(sum(len(round_.units) for round_ in done))
    progress.end(plans.widest)
    wall_seconds = round(time.perf_counter() - start, 3)
    return ExecuteFacts(
        rows=rows,
        faults=sum(round_.faults for round_ in done),
        rows_this_process=rows - before,
        wall_seconds=wall_seconds,
        engine_seconds=round(total.engine_seconds, 3),
        worker_seconds=round(total.worker_seconds, 3),
        crashes=total.crashes,
        hangs=total.hangs,
        losses=total.losses,
        blamed=total.blamed,
        refused=total.refused,
        **({} if stop is None else {"stop": stop}),
    )


def _compaction(workplace: Workplace, store: ResultStore) -> Compaction:
    """The results' table, once the plan's file says what rows stand for."""
    weights = RowWeights.of(workplace.folder / PLAN, len(workplace.images))
    return Compaction(store, workplace.folder / RESULTS, RESULT_SCHEMA, weights.added)


def run_round(
    round_: Round,
    number: int,
    store: ResultStore,
    pool: WorkerPool,
    progress: Progress,
    plans: PlanSource,
    ahead: Compaction | None = None,
) -> Report:
    """Runs those units of a round that are not in the store, and keeps their rows there. number: of the round, from 0.
    ahead: writes them to the results' table, too.

    Raises TestbedError when units are left undone or an earlier round's rows are not believed, or what the pool raises.
    """
    left = [unit for unit in round_.units if unit.number not in store]
    by_number = {unit.number: unit for unit in round_.units}
    frames = store.frames(number for number in by_number if number in store)
    kept = (
        FinishedUnits(
            len(frame.units), sum(len(by_number[number]) for number in frame.units), store.stream(frame.units.start)
        )
        for frame in frames
    )
    name = "execute" if number == 0 else f"execute, round {number}"
    log.info(
        "%s: %s faults in %s units of work, %s done before",
        name,
        f"{round_.faults:,}",
        f"{len(round_.units):,}",
        f"{len(round_.units) - len(left):,}",
    )
    progress.begin(name, len(round_.units), round_.faults, kept, rounds=plans.rounds, widest=plans.widest)

    spans = Spans(left)

    def keep(unit: Unit, rows: bytes) -> None:
        store.append(unit.number, rows, unit.count)
        spans.kept(unit)
        progress.finished(FinishedUnits(unit.count, len(unit), rows))
        if ahead is not None:
            ahead.advance()

    def drop(units: Sequence[Unit]) -> None:
        if units and min(unit.number for unit in units) < round_.units[0].number:
            first = min(unit.number for unit in units)
            for frame in list(store.frames(sorted(number for number in store if number >= first))):
                store.drop(frame.units)
            raise TestbedError(
                "earlier rounds followed from rows that are not believed any more (see above); they and what came after are"
                " thrown away; run the same command again to go on"
            )
        for unit in units:
            progress.dropped(FinishedUnits(unit.count, len(unit), store.stream(unit.number)))
            store.drop(unit.numbers)

    report = pool.run(spans, keep, progress.tick, drop)
    report.check_complete()
    return report
