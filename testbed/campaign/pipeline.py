"""A campaign from start to end: prepare, pass the gates, plan, run, summarise. Every stage can be resumed."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.benches import engine_request, golden_words, open_bench, output_name
from testbed.campaign.execute import ActivationLeg, Bench, Judge, WeightLeg
from testbed.campaign.gates import check_bounds, parity, weight_canary, zero_fault, zero_fault_leg
from testbed.campaign.plan import PLAN_FILE, Leg, legs, plan_table, read_plan, write_plan
from testbed.campaign.prepare import TIERS, Files, Preparation
from testbed.campaign.rows import ROW_SCHEMA
from testbed.campaign.spec import CampaignSpec
from testbed.campaign.store import ResultStore, discard_log
from testbed.campaign.summary import SUMMARY, summarise
from testbed.core.errors import GateFailed, TestbedError
from testbed.core.files import sha256_bytes, write_json
from testbed.core.runfolder import RunFolder, current_argv
from testbed.engines.runner import open_engine, require_engine
from testbed.instrument.feed import Words

log = logging.getLogger(__name__)

RESULTS = "results.parquet"
STORE = "store"
LATER_STAGES = ("gates", "plan", "execute", "summary", "report")


class Progress(Protocol):
    def __call__(self, total: int) -> AbstractContextManager[Callable[[int], None]]: ...


def run_campaign(spec: CampaignSpec, path: Path, *, redo: str | None, progress: Progress) -> dict[str, Any]:
    """Runs or resumes the campaign in ``path`` up to its summary, which is returned.

    Raises UsageError for a folder with another campaign, StaleArtefact for files that were changed, GateFailed for a
    bound
    that does not hold.
    """
    folder = RunFolder.claimed(path, "campaign", spec.name, spec.identity(), current_argv())
    require_engine(spec.engine.backend)  # before anything is trained for it
    preparation = Preparation(spec, folder)  # refuses what the spec gets wrong before anything is written
    with folder.locked():
        if redo:
            order = [*preparation.subject.stages(spec.targets), *LATER_STAGES]
            folder.redo(redo, order)
            if order.index(redo) <= order.index("execute"):
                discard_log(folder / STORE)
        folder.save()
        preparation.run()
        with ExitStack() as stack:
            campaign = Campaign(preparation, stack)
            campaign.gate()
            campaign.plan()
            campaign.execute(progress)
        return campaign.summarise()


class Campaign:
    """The stages after preparation, sharing their engines."""

    def __init__(self, preparation: Preparation, stack: ExitStack) -> None:
        self.preparation, self.spec, self.folder = preparation, preparation.spec, preparation.folder
        self._stack = stack
        self._benches: dict[tuple[str, str], Bench] = {}
        tolerance = self.spec.tolerance
        self.judge = Judge(
            np.array(tolerance.per_tier(len(self.spec.tiers.edges))),
            tolerance.rtol,
            tolerance.rtol_grid,
            self.spec.detector,
        )

    def bench(self, target: str, where: str) -> Bench:
        key = (target, where)
        if key not in self._benches:
            self._benches[key] = open_bench(self.preparation, target, where)
            self._stack.callback(lambda: self._benches[key].runner.close())
        return self._benches[key]

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
        inputs = {"engines": self.engines(), "gates": self.spec.gates.model_dump(mode="json")}

        def build() -> dict[str, Any]:
            log.info("gates: parity, drift, zero-fault rows, live weights")
            records = [record for target in self.spec.targets for record in self._parity(target)]
            check_bounds(records, self.spec.gates.parity_max_abs, self.spec.gates.drift_max_abs)
            zero = [self._zero_fault(*leg, sites) for leg, sites in self.spec.legs.items()]
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
                "goldens": self._golden_hashes(),
            }

        facts = self.folder.stage("gates", inputs, [], build)
        if facts["goldens"] != self._golden_hashes():
            raise TestbedError(
                "this machine's engine gives other golden bits than the one this campaign was begun on;"
                " go on there, or start anew in another folder"
            )
        return facts

    def _parity(self, target: str) -> list[dict[str, Any]]:
        reference = self.preparation.reference(target)
        plain = self._plain_outputs(target)
        twin = self.bench(target, "activation").outputs(twin=True)
        original = [] if reference is None else [("torch-plain", reference, plain)]
        return parity([*original, ("plain-twin", plain, twin)], target)

    def _plain_outputs(self, target: str) -> NDArray[np.float32]:
        """Of the engine as it would be deployed: the plain file, prepacked weights."""
        request = engine_request(self.preparation, target, Files(target).plain)
        bench = self.bench(target, "activation")
        inputs, batch, name = bench.inputs, bench.batch, output_name(request.onnx)
        with open_engine(self.spec.engine.backend, request) as runner:
            parts = []
            for start in range(0, len(bench.images), batch):
                rows = np.arange(start, min(start + batch, len(bench.images)))
                parts.append(runner.run({bench.input_name: inputs(rows)})[name])
        return np.concatenate(parts)

    def _zero_fault(self, target: str, where: str, sites: Sequence[str]) -> tuple[int, int]:
        bench = self.bench(target, where)
        chosen = bench.table.select(where, sites)
        rows = self.spec.gates.zero_fault_rows
        if where == "weight":
            weight_canary(bench, chosen, bench.outputs(twin=False))
            rows = len(chosen)
        leg = zero_fault_leg(target, where, chosen, bench.images.ids, rows, self.spec.seed)
        return zero_fault(bench, leg, self.judge, lambda part: self.golden_words(bench, part))

    def _golden_hashes(self) -> dict[str, str]:
        """Content of each engine's golden: another instruction set gives other bits, and must not be mixed in."""
        return {
            f"{target}.{where}": sha256_bytes(self.bench(target, where).outputs(twin=where == "activation").tobytes())[
                :16
            ]
            for target, where in self.spec.legs
        }

    def golden_words(self, bench: Bench, leg: Leg) -> Words:
        request = engine_request(self.preparation, bench.target, Files(bench.target).twin)
        return golden_words(bench, leg, self.spec.engine.backend, request)

    # ---- plan and run

    def plan(self) -> None:
        tables = {target: self.preparation.table(target) for target in self.spec.targets}
        inputs = {
            "tiers": self.folder.output_hash("tiers", TIERS),
            "sites": {t: self.folder.output_hash(f"instrument.{t}", Files(t).sites) for t in self.spec.targets},
        }

        def build() -> dict[str, Any]:
            table = plan_table(self.spec, tables, self.preparation.images.per_tier(len(self.spec.tiers.edges)))
            write_plan(self.folder / PLAN_FILE, table)
            return {"faults": table.num_rows}

        self.folder.stage("plan", inputs, [PLAN_FILE], build)

    def execute(self, progress: Progress) -> None:
        plan_hash = self.folder.output_hash("plan", PLAN_FILE)
        inputs = {"plan": plan_hash, "engines": self.engines()}

        def build() -> dict[str, Any]:
            plan = read_plan(self.folder / PLAN_FILE)
            for bench in self._benches.values():
                bench.engine_seconds = 0.0  # the gates' runs are not the campaign's
            start = time.perf_counter()
            with ResultStore(self.folder / STORE, plan_hash) as store:
                rows_before = sum(store.read(unit).num_rows for unit in store)
                runners = [self._leg(leg) for leg in legs(plan)]
                self._run_units(runners, store, progress, plan.num_rows)
                rows = store.compact(self.folder / RESULTS, range(sum(r.units for r in runners)), ROW_SCHEMA)
            seconds = time.perf_counter() - start
            engine = sum(bench.engine_seconds for bench in self._benches.values())
            return {
                "rows": rows,
                "rows_this_process": rows - rows_before,
                "wall_seconds": round(seconds, 3),
                "engine_seconds": round(engine, 3),
            }

        self.folder.stage("execute", inputs, [RESULTS], build)
        discard_log(self.folder / STORE)  # not before the stage is recorded: a kill in between would lose every row

    def _leg(self, leg: Leg) -> ActivationLeg | WeightLeg:
        bench = self.bench(leg.target, leg.where)
        if leg.where == "weight":
            return WeightLeg(bench, leg, self.judge)
        return ActivationLeg(bench, leg, self.golden_words(bench, leg), self.judge)

    def _run_units(
        self, runners: Sequence[ActivationLeg | WeightLeg], store: ResultStore, progress: Progress, faults: int
    ) -> None:
        log.info(
            "campaign: %d faults in %d units of work, %d done before", faults, sum(r.units for r in runners), len(store)
        )
        with progress(faults) as advance:
            for number, runner, unit in _numbered(runners):
                if number not in store:
                    store.append(number, runner.run_unit(unit))
                advance(min(runner.faults_per_unit, len(runner.leg) - unit * runner.faults_per_unit))

    def summarise(self) -> dict[str, Any]:
        inputs = {"results": self.folder.output_hash("execute", RESULTS)}

        def build() -> None:
            log.info("summary: rates and intervals of %s", RESULTS)
            write_json(self.folder / SUMMARY, summarise(self.preparation, self.engines(), RESULTS))

        self.folder.stage("summary", inputs, [SUMMARY], build)
        summary: dict[str, Any] = json.loads((self.folder / SUMMARY).read_text())
        return summary


def _numbered(runners: Sequence[ActivationLeg | WeightLeg]) -> Iterator[tuple[int, ActivationLeg | WeightLeg, int]]:
    number = 0
    for runner in runners:
        for unit in range(runner.units):
            yield number, runner, unit
            number += 1
