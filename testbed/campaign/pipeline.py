"""A campaign from start to end: prepare, pass the gates, plan, run, summarise. Every stage can be resumed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.adaptive import AdaptivePlanner
from testbed.campaign.bench import Bench
from testbed.campaign.claim import claimed
from testbed.campaign.evaluators import prove, prove_weights
from testbed.campaign.exposed import site_exposures
from testbed.campaign.files import PLAN, RESULTS, STORE, TIERS, Files, plan_file, points_file, words_file
from testbed.campaign.gates import check_bounds, parity, zero_fault, zero_fault_leg
from testbed.campaign.plan import Planned, planned, write_plan
from testbed.campaign.prepare import Preparation
from testbed.campaign.progress import Progress, Show
from testbed.campaign.proxy_samples import guess_of
from testbed.campaign.running import AdaptivePlans, OnePlan, run_plans
from testbed.campaign.spec import CampaignSpec
from testbed.campaign.store import ResultStore, discard_log
from testbed.campaign.summary import SUMMARY, summarise
from testbed.campaign.weight_gate import WeightGate, weight_gate_of
from testbed.campaign.words import golden_words, write_plan_words
from testbed.campaign.work import Opener
from testbed.campaign.worker import open_worker, strike_for
from testbed.campaign.workforce import Workforce
from testbed.campaign.workplace import Workplace
from testbed.core.errors import GateFailed, TestbedError, UsageError
from testbed.core.files import sha256_json, write_json
from testbed.core.site import Site, Where
from testbed.engines.runner import require_engine

log = logging.getLogger(__name__)

LATER_STAGES = ("gates", "plan", "execute", "summary", "report")


def run_campaign(
    spec: CampaignSpec,
    path: Path,
    *,
    redo: str | None = None,
    workforce: Workforce | None = None,
    show: Show = lambda snapshot: None,
) -> dict[str, Any]:
    """Runs or resumes the campaign in ``path`` up to its summary, which is returned.

    workforce: who runs the faults; one isolated process unless said. show: is told how far it is, about once a second.

    Raises UsageError for a folder with another campaign, StaleArtefact for files that were changed, GateFailed for a
    bound that does not hold.
    """
    folder = claimed(path, spec)
    require_engine(spec.engine.backend)  # before anything is trained for it
    preparation = Preparation(spec, folder)  # refuses what the spec gets wrong before anything is written
    with folder.locked():
        if redo:
            order = [*preparation.stages, *LATER_STAGES]
            folder.redo(redo, order)
            if order.index(redo) <= order.index("execute"):
                discard_log(folder / STORE)
        folder.save()
        preparation.run()
        with ExitStack() as stack:
            campaign = Campaign(preparation, stack)
            campaign.gate()
            campaign.plan()
            campaign.execute(workforce or Workforce(), Progress(folder.path, show))
            return campaign.summarise()


class Campaign:
    """The stages after preparation, sharing their engines."""

    def __init__(self, preparation: Preparation, stack: ExitStack) -> None:
        self.preparation, self.spec, self.folder = preparation, preparation.spec, preparation.folder
        self.place = Workplace(self.folder, self.spec)
        stack.callback(self.place.close)

    def bench(self, target: str, where: str) -> Bench:
        return self.place.bench(target, where)

    @cached_property
    def engines(self) -> list[dict[str, Any]]:
        return [
            {
                "target": target,
                "where": where,
                "hash": (info := self.bench(target, where).runner.info).hash,
                "deployment_id": info.deployment_id,
                "file": Files(target).twin if where == "activation" else Files(target).plain,
                "options": dict(info.options),
                "versions": dict(info.versions),
            }
            for target, where in self.spec.legs
        ]

    # ---- gates

    def gate(self) -> dict[str, Any]:
        inputs = {"engines": self.engines, "gates": self.spec.gates.model_dump(mode="json")}

        def build() -> dict[str, Any]:
            log.info("gates: parity, drift, zero-fault rows, live weights")
            records = [record for target in self.spec.targets for record in self._parity(target)]
            check_bounds(records, self.spec.gates.parity_max_abs, self.spec.gates.drift_max_abs)
            weights = {
                target: self._weights(target, sites)
                for (target, where), sites in self.spec.legs.items()
                if where == "weight"
            }
            zero = [
                self._zero_fault(*leg, self._strikable(*leg, sites, weights)) for leg, sites in self.spec.legs.items()
            ]
            rows, mismatches = (int(sum(column)) for column in zip(*zero, strict=True))
            if mismatches:
                raise GateFailed(
                    f"{mismatches} of {rows} zero-fault rows are not the engine golden, bit for bit: this engine is not"
                    " deterministic at these settings; try threads = 1, or another batch"
                )
            drift = max(record["max_abs_diff"] for record in records if record["pair"] == "plain-twin")
            return {
                "parity": records,
                "drift": {"max_abs_diff": drift, "bound": self.spec.gates.drift_max_abs},
                "zero_fault": {"rows": rows, "mismatches": mismatches},
                "weights": {target: found.record() for target, found in weights.items()},
                "goldens": self.place.golden_hashes(),
                "evaluation": dict(self._evaluation(*leg) for leg in self.spec.legs),
            }

        facts = self.folder.stage("gates", inputs, [], build)
        if facts["goldens"] != self.place.golden_hashes():
            raise TestbedError(
                "this machine's engine gives other golden bits than the one this campaign was begun on;"
                " go on there, or start anew in another folder"
            )
        return facts

    def _evaluation(self, target: str, where: str) -> tuple[str, dict[str, Any]]:
        """Under "model" for activations, "model.weight" for weights: what runs less than the whole, and gives the same."""
        found = prove(self.place, target) if where == "activation" else prove_weights(self.place, target)
        log.info("gates: faults in %ss of %s are evaluated by: %s%s", where, target, found["by"], _why(found))
        return (target if where == "activation" else f"{target}.weight"), found

    def _parity(self, target: str) -> list[dict[str, Any]]:
        reference = self.preparation.reference(target)
        plain = self._plain_outputs(target)
        twin = self.bench(target, "activation").golden
        original = [] if reference is None else [("torch-plain", reference, plain)]
        return parity([*original, ("plain-twin", plain, twin)], target)

    def _plain_outputs(self, target: str) -> NDArray[np.float32]:
        """Of the engine as it would be deployed: the plain file, prepacked weights."""
        bench = self.bench(target, "activation")
        with self.place.open(self.place.request(target, Files(target).plain)) as runner:
            parts = []
            for start in range(0, len(bench.images), bench.batch):
                rows = np.arange(start, min(start + bench.batch, len(bench.images)))
                parts.append(runner.run({bench.input_name: bench.inputs(rows)})[bench.output_name])
        return np.concatenate(parts)

    def _weights(self, target: str, sites: Sequence[str]) -> WeightGate:
        """Which weights may be struck in place; what may not is told."""
        bench = self.bench(target, "weight")
        found = weight_gate_of(self.place, bench, bench.table.select("weight", sites))
        for reason, names in found.by_reason().items():
            log.warning("gates: %d weights of %s are left out (%s): %s", len(names), target, ", ".join(names), reason)
        return found

    def _strikable(
        self, target: str, where: Where, sites: Sequence[str], weights: Mapping[str, WeightGate]
    ) -> list[Site]:
        """Raises GateFailed where a section has nothing left to strike."""
        table = self.bench(target, where).table
        if where == "weight":
            table = table.without(left_out.site for left_out in weights[target].left_out)
        try:
            for section in self.spec.faults:
                if (section.target, section.where) == (target, where):
                    table.select(where, section.sites)
        except UsageError as error:
            raise GateFailed(str(error)) from error
        return table.select(where, sites)

    def _zero_fault(self, target: str, where: str, chosen: Sequence[Site]) -> tuple[int, int]:
        bench = self.bench(target, where)
        rows = len(chosen) if where == "weight" else self.spec.gates.zero_fault_rows
        leg = zero_fault_leg(target, where, chosen, bench.images.ids, rows, self.spec.seed)
        words = golden_words(self.place, leg) if where == "activation" else np.zeros(0, np.uint32)
        return zero_fault(strike_for(self.place, target, where), leg, words)

    # ---- plan and run

    def plan(self) -> None:
        tables = self.place.plannable
        site_exposures(self.spec, tables)  # refuses a wrong one before anything is run for it
        inputs: dict[str, Any] = {
            "tiers": self.folder.output_hash("tiers", TIERS),
            "sites": {t: self.folder.output_hash(f"instrument.{t}", Files(t).sites) for t in self.spec.targets},
        }

        if any(self.place.left_out.values()):
            inputs["left_out"] = self.place.left_out

        def build() -> dict[str, Any]:
            parts: Iterator[Planned] | None
            tier_images = self.place.images.per_tier(len(self.spec.tiers.edges))
            parts = planned(self.spec, tables, tier_images) if self._planner is None else self._planner.round(0, [])
            assert parts is not None
            faults = write_plan(self.folder / self._first_plan, parts)
            write_plan_words(self.place, self._first_plan)
            return {"faults": faults}

        plan = self._first_plan
        self.folder.stage("plan", inputs, [plan, points_file(plan), words_file(plan)], build)

    @cached_property
    def _planner(self) -> AdaptivePlanner | None:
        """Of an adaptive campaign."""
        if self.spec.stop is None:
            return None
        tables = self.place.plannable
        tier_images = self.place.images.per_tier(len(self.spec.tiers.edges))
        return AdaptivePlanner(self.spec, tables, tier_images, guess_of(self.preparation))

    @property
    def _first_plan(self) -> str:
        return PLAN if self.spec.stop is None else plan_file(0)

    def execute(self, workforce: Workforce, progress: Progress) -> None:
        plan_hash = self.folder.output_hash("plan", self._first_plan)
        inputs = {"plan": plan_hash, "engines": self.engines}

        def build() -> dict[str, Any]:
            self.place.close()  # the workers open their own
            goldens = self.folder.manifest["stages"]["gates"]["facts"]["goldens"]
            opener = Opener(open_worker, (str(self.folder.path.resolve()),), goldens)
            identity = sha256_json([plan_hash, self.place.tuned["unit_rows"]])
            plans = OnePlan() if self._planner is None else AdaptivePlans(self.place, self._planner)
            with (
                ResultStore(self.folder / STORE, identity) as store,
                workforce.crew(opener, self.folder) as crew,
            ):
                return run_plans(self.place, plans, store, crew, progress)

        files = [RESULTS] if self.spec.stop is None else [RESULTS, PLAN, points_file(PLAN)]
        self.folder.stage("execute", inputs, files, build)
        discard_log(self.folder / STORE)  # not before the stage is recorded: a kill in between would lose every row

    def summarise(self) -> dict[str, Any]:
        inputs: dict[str, Any] = {"results": self.folder.output_hash("execute", RESULTS)}
        if self.spec.exposure is not None:
            inputs["exposure"] = self.spec.exposure.model_dump(mode="json")

        def build() -> None:
            log.info("summary: rates and intervals of %s", RESULTS)
            write_json(
                self.folder / SUMMARY, summarise(self.preparation, self.engines, RESULTS, tables=self.place.plannable)
            )

        self.folder.stage("summary", inputs, [SUMMARY], build)
        summary: dict[str, Any] = json.loads((self.folder / SUMMARY).read_text())
        return summary


def _why(found: dict[str, Any]) -> str:
    return f" ({found['why']})" if found.get("why") else ""
