"""A campaign from start to end: prepare, pass the gates, plan, run, summarise. Every stage can be resumed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

from testbed.campaign.evaluate.golden_values import read_value_classes, value_files, write_value_classes
from testbed.campaign.evaluate.golden_words import write_plan_words
from testbed.campaign.execute.gates import passed
from testbed.campaign.execute.image_pilot import chosen_images
from testbed.campaign.execute.rounds import AdaptivePlans, OnePlan, run_plans
from testbed.campaign.execute.worker import open_worker
from testbed.campaign.facts import ExecuteFacts, PlanFacts, check_facts
from testbed.campaign.files import PLAN, RESULTS, STORE, TIERS, Files, plan_file, points_file, words_file
from testbed.campaign.folder.claim import claimed, clean, note_protect
from testbed.campaign.folder.engine import CampaignEngine
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.gate_facts import GateFacts
from testbed.campaign.plan.adaptive import DESIGN, AdaptivePlanner
from testbed.campaign.plan.table import PlanPart, planned, write_plan
from testbed.campaign.prepare.proxy_samples import guess_of
from testbed.campaign.prepare.recorded import preparation_stages
from testbed.campaign.prepare.stages import Preparation
from testbed.campaign.results.progress import Progress, Show
from testbed.campaign.results.store import ResultStore, discard_log
from testbed.campaign.reuse.reuse import Reuse
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.campaign.summary.exposure import site_exposures
from testbed.campaign.summary.record import FaultyEngine, Summary, load_summary
from testbed.campaign.summary.summarise import SUMMARY, summarise
from testbed.campaign.work.contract import Opener, WorkerPool
from testbed.campaign.work.row_check import planned_rows
from testbed.campaign.work.worker_setup import WorkerSetup
from testbed.core.errors import StaleArtefact, TestbedError
from testbed.core.folder.files import sha256_json, write_json
from testbed.core.folder.stage_facts import facts_of
from testbed.core.site import Where
from testbed.engines.backends import require_engine

log = logging.getLogger(__name__)

LATER_STAGES = ("images", "gates", "plan", "execute", "summary", "report")


def run_campaign(
    spec: CampaignSpec,
    path: Path,
    *,
    redo: str | None = None,
    fresh: bool = False,
    worker_setup: WorkerSetup | None = None,
    cache: Path | None = None,
    show: Show = lambda snapshot: None,
) -> Summary:
    """Runs or resumes the campaign in ``path`` up to its summary, which is returned; that of the plain model alone where
    the spec protects it afterwards.

    redo: a stage to forget, with all later ones. fresh: whatever campaign the folder holds is given up, with its files.
    worker_setup: who runs the faults; one isolated process unless said. cache: folder of what earlier campaigns prepared;
    $TESTBED_CACHE unless given, and nothing is taken or kept without either. show: is told how far it is, about once a second.

    Raises UsageError for a folder with another campaign, StaleArtefact for files that were changed, GateFailed for a
    bound that does not hold.
    """
    worker_setup = worker_setup or WorkerSetup()
    worker_setup.check()
    protect, spec = spec.protect, spec.plain
    folder = claimed(path, spec, redo=redo is not None, fresh=fresh)
    require_engine(spec.engine.backend)  # before anything is trained for it
    progress = Progress(folder.path, show)
    order = [*preparation_stages(spec), *LATER_STAGES]
    reuse = Reuse.named(cache, spec.engine.backend, anew=order[order.index(redo) :] if redo in order else [])
    preparation = Preparation(spec, folder, watch=progress.watch, reuse=reuse)  # refuses what is wrong, writes nothing
    with folder.locked():
        if redo:
            folder.redo(redo, order)
            if redo in order[: order.index("execute") + 1]:
                discard_log(folder / STORE)
        check_facts(folder)
        clean(folder)
        folder.save()
        note_protect(folder, protect)
        preparation.run()
        with ExitStack() as stack:
            campaign = Campaign(preparation, stack)
            campaign.begin_workers(worker_setup)
            campaign.choose_images()
            campaign.gate()
            campaign.begin_workers(worker_setup)
            campaign.plan()
            campaign.execute(worker_setup, progress)
            return campaign.summarise()


class Campaign:
    """The stages after preparation, sharing their engines."""

    def __init__(self, preparation: Preparation, stack: ExitStack) -> None:
        self.preparation, self.spec, self.folder = preparation, preparation.spec, preparation.folder
        self.workplace = Workplace(self.folder, self.spec)
        self._stack = stack
        self._pool: AbstractContextManager[WorkerPool] | None = None
        stack.callback(self.workplace.close)

    def engine(self, target: str, where: Where) -> CampaignEngine:
        return self.workplace.engine(target, where)

    @cached_property
    def engines(self) -> list[FaultyEngine]:
        return [
            FaultyEngine(
                target=target,
                where=where,
                hash=(info := self.engine(target, where).runner.info).hash,
                deployment_id=info.deployment_id,
                file=Files(target).twin if where == "activation" else Files(target).plain,
                options=dict(info.options),
                versions=dict(info.versions),
            )
            for target, where in self.spec.target_places
        ]

    @property
    def _engine_inputs(self) -> list[dict[str, Any]]:
        return [engine.to_json() for engine in self.engines]

    # ---- pilot and gates

    def choose_images(self) -> None:
        """Decides on how many images persistent faults are run, where the spec leaves it open: before the gates, which are of
        engines with the batches that follow from it. What is recorded stays, however long a fault takes later."""
        if not self.spec.auto_places:
            return
        inputs: dict[str, Any] = {
            "tiers": self.folder.output_hash("tiers", TIERS),
            "sites": {t: self.folder.output_hash(f"instrument.{t}", Files(t).sites) for t in self.spec.targets},
        }
        self.folder.stage("images", inputs, [], lambda: chosen_images(self.workplace, self.preparation))

    def gate(self) -> GateFacts:
        inputs = {"engines": self._engine_inputs, "gates": self.spec.gates.model_dump(mode="json")}
        self.folder.stage("gates", inputs, [], lambda: passed(self.workplace, self.preparation))
        facts = facts_of(self.folder, "gates", GateFacts)
        if facts.goldens != self.workplace.golden_hashes():
            raise TestbedError(
                "this machine's engine gives other golden bits than the one this campaign was begun on;"
                " go on there, or start anew in another folder"
            )
        return facts

    # ---- plan and run

    def begin_workers(self, worker_setup: WorkerSetup) -> None:
        """Starts this machine's workers as soon as the gates are recorded, where faults are still to be run: they import what
        they need while the rest is made, or looked through, and open their engines when they are given work."""
        here = worker_setup.scheduler is None and worker_setup.workers > 0
        stages = self.folder.manifest["stages"]
        if here and self._pool is None and "gates" in stages and "execute" not in stages:
            self._pool = self._opened(worker_setup)
            self._stack.enter_context(self._pool).begin()

    def _opened(self, worker_setup: WorkerSetup) -> AbstractContextManager[WorkerPool]:
        goldens = facts_of(self.folder, "gates", GateFacts).goldens
        opener = Opener(open_worker, (str(self.folder.path.resolve()),), goldens)
        return worker_setup.pool(opener, self.folder, expect=planned_rows(self.folder.path, self.workplace.images))

    def plan(self) -> None:
        tables = self.workplace.plannable
        site_exposures(self.spec, tables)  # refuses a wrong one before anything is run for it
        inputs: dict[str, Any] = {
            "tiers": self.folder.output_hash("tiers", TIERS),
            "sites": {t: self.folder.output_hash(f"instrument.{t}", Files(t).sites) for t in self.spec.targets},
        }

        if any(self.workplace.left_out.values()):
            inputs["left_out"] = self.workplace.left_out

        def build() -> PlanFacts:
            parts: Iterator[PlanPart] | None
            write_value_classes(self.workplace)
            tier_images = self.workplace.images.per_tier(len(self.spec.tiers.edges))
            spec = self.workplace.drawn_spec
            parts = planned(spec, tables, tier_images) if self._planner is None else self._planner.round(0, [])
            assert parts is not None
            faults = write_plan(self.folder / self._first_plan, parts)
            write_plan_words(self.workplace, self._first_plan)
            return PlanFacts(faults=faults) if self._planner is None else PlanFacts(faults=faults, design=DESIGN)

        plan = self._first_plan
        files = [plan, points_file(plan), words_file(plan), *value_files(self.workplace)]
        self._check_design()
        self.folder.stage("plan", inputs, files, build)

    def _check_design(self) -> None:
        """Rounds that were begun by other rules are neither gone on with nor lost unasked."""
        stages = self.folder.manifest["stages"]
        if self.spec.stop is None or "plan" not in stages or "execute" in stages:
            return
        if (design := facts_of(self.folder, "plan", PlanFacts).design or 1) != DESIGN:
            raise StaleArtefact(
                f"this campaign was begun by version {design} of the adaptive design, and this testbed goes on by version"
                f" {DESIGN}: other faults would follow from the same rows; rerun with `testbed campaign run SPEC --redo plan`,"
                " or go on with the testbed that began it"
            )

    @cached_property
    def _planner(self) -> AdaptivePlanner | None:
        """The planner of an adaptive campaign."""
        if self.spec.stop is None:
            return None
        tables = self.workplace.plannable
        tier_images = self.workplace.images.per_tier(len(self.spec.tiers.edges))
        values = read_value_classes(self.workplace)
        return AdaptivePlanner(self.workplace.drawn_spec, tables, tier_images, guess_of(self.preparation), values)

    @property
    def _first_plan(self) -> str:
        return PLAN if self.spec.stop is None else plan_file(0)

    def execute(self, worker_setup: WorkerSetup, progress: Progress) -> None:
        plan_hash = self.folder.output_hash("plan", self._first_plan)
        inputs = {"plan": plan_hash, "engines": self._engine_inputs}

        def build() -> ExecuteFacts:
            self.workplace.close()  # the workers open their own
            identity = sha256_json([plan_hash, self.workplace.tuned.unit_rows])
            plans = OnePlan() if self._planner is None else AdaptivePlans(self.workplace, self._planner)
            with (
                ResultStore(self.folder / STORE, identity) as store,
                self._pool or self._opened(worker_setup) as pool,
            ):
                return run_plans(self.workplace, plans, store, pool, progress)

        files = [RESULTS] if self.spec.stop is None else [RESULTS, PLAN, points_file(PLAN)]
        self.folder.stage("execute", inputs, files, build)
        discard_log(self.folder / STORE)  # not before the stage is recorded: a kill in between would lose every row

    def summarise(self) -> Summary:
        inputs: dict[str, Any] = {"results": self.folder.output_hash("execute", RESULTS)}
        if self.spec.exposure is not None:
            inputs["exposure"] = self.spec.exposure.model_dump(mode="json")

        record = self.folder.manifest["stages"].get("summary")
        if record is not None and _differ_in_exposure(record["inputs"], inputs):
            log.info("summary: made again, for another [exposure] than it was made with")
            self.folder.redo("summary", ["summary", "report"])

        def build() -> None:
            log.info("summary: rates and intervals of %s", RESULTS)
            summary = summarise(self.preparation, self.engines, RESULTS, tables=self.workplace.plannable)
            write_json(self.folder / SUMMARY, summary.to_json())

        self.folder.stage("summary", inputs, [SUMMARY], build)
        return load_summary(self.folder / SUMMARY)


def _differ_in_exposure(recorded: dict[str, Any], inputs: dict[str, Any]) -> bool:
    """And in nothing else. Exposure is no part of what a campaign is: it weighs rows that are there."""
    return recorded != inputs and {**recorded, "exposure": None} == {**inputs, "exposure": None}
