"""The gates of one campaign, all of them, before its first fault: what they decided, and everything that failed at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.evaluate.choose import prove_activations, prove_weights
from testbed.campaign.evaluate.golden_words import golden_words
from testbed.campaign.evaluate.repay import unrepaid
from testbed.campaign.evaluate.weights.in_place import weight_gate_of
from testbed.campaign.execute.checks import (
    DRIFT,
    PARITY,
    WHOLE,
    Bounds,
    OutputDeviation,
    failing,
    false_alarms,
    parity,
    passes_of,
    second_run_seconds,
    silent_flags,
    zero_fault,
    zero_fault_slice,
)
from testbed.campaign.execute.passed_before import EngineDiffers, PassedBefore, check_weight, check_zero_faults
from testbed.campaign.execute.worker import fault_runner_for
from testbed.campaign.files import Files
from testbed.campaign.folder.engine import CampaignEngine
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.gate_facts import (
    AlarmFacts,
    DriftFacts,
    EvaluationFacts,
    GateFacts,
    ParityFacts,
    RowsFacts,
    WeightGate,
    ZeroFaultFacts,
)
from testbed.campaign.prepare.row_gate import row_influence
from testbed.campaign.prepare.stages import Preparation
from testbed.campaign.proofs import WHOLE as WHOLE_TWIN
from testbed.campaign.proofs import Proof
from testbed.core.errors import GateFailed, TestbedError, UsageError
from testbed.core.site import Site, Where
from testbed.engines.batches import run_batched
from testbed.instrument.packed import JudgedOutputs

log = logging.getLogger(__name__)

_ZERO_FAULT = "rows armed with a fault that changes nothing are not the golden, bit for bit"


def passed(workplace: Workplace, preparation: Preparation) -> GateFacts:
    """What the gates found. Where rows influence each other, the campaign goes on with one row at a time.

    Raises GateFailed with every gate that does not hold.
    """
    log.info("gates: rows, parity, drift, zero-fault rows, live weights")
    tuned, before = workplace.tuned, PassedBefore(workplace, preparation.reuse)
    try:
        facts = _Gates(workplace, preparation, before).pass_all()
    except EngineDiffers as why:
        log.warning("gates: %s; what the cache holds of this engine is not used, and all gates are run", why)
        workplace.run_as_tuned(tuned)
        before = PassedBefore(workplace, replace(preparation.reuse, anew=frozenset({"gates"})))
        facts = _Gates(workplace, preparation, before).pass_all()
    before.keep()
    for line in before.note():
        log.info("gates: %s", line)
    return facts


class _RowsDiffer(TestbedError):
    """Zero-fault rows are not the golden, in batches that can still be made smaller."""


class _Gates:
    def __init__(self, workplace: Workplace, preparation: Preparation, before: PassedBefore) -> None:
        self.workplace, self.spec, self.preparation, self.before = workplace, workplace.spec, preparation, before

    def pass_all(self) -> GateFacts:
        """Raises GateFailed; EngineDiffers where gates that were passed before do not hold here."""
        if why := self._influence():
            return self._alone(why)
        try:
            return self._facts()
        except _RowsDiffer as differ:
            why = f"{differ}, in batches of {self.workplace.batch}"
        return self._alone(why)

    def _influence(self) -> str:
        """Why the rows of a batch influence each other, of the first engine in which they do."""
        for target, where in self.spec.target_places:
            engine = self.workplace.engine(target, where)

            def run(engine: CampaignEngine = engine) -> RowsFacts:
                return RowsFacts(why=row_influence(engine, self.spec.seed))

            if why := self.before.gate("rows", engine, RowsFacts, run).why:
                return why
        return ""

    def _alone(self, why: str) -> GateFacts:
        log.warning("gates: batch 1 instead of %d: %s", self.workplace.batch, why)
        self.workplace.run_alone(why)
        return self._facts()

    def _facts(self) -> GateFacts:
        """Raises GateFailed, or _RowsDiffer."""
        spec, bounds = self.spec, Bounds.of(self.spec)
        plain = {str(target): self._plain_outputs(target) for target in spec.targets}
        deviations = [deviation for target in spec.targets for deviation in self._parity(target, plain[target], bounds)]
        alarms, alarm_complaints = self._alarms(plain)
        deployed = self.workplace.folder / Files(spec.targets[0]).plain
        protection: dict[str, Any] = {"passes": passes_of(deployed.read_bytes(), str(deployed)), "alarms": alarms}
        weights = {t: self._weights(t, sites) for (t, where), sites in spec.target_places.items() if where == "weight"}
        chosen = {
            target_place: self._strikable(*target_place, sites, weights)
            for target_place, sites in spec.target_places.items()
        }
        zero = [self._zero_fault(*target_place, sites) for target_place, sites in chosen.items()]
        rows, mismatches = sum(facts.rows for facts in zero), sum(facts.mismatches for facts in zero)
        complaints = [*failing(deviations), *alarm_complaints]
        differ = f"{mismatches} of {rows} {_ZERO_FAULT}"
        if mismatches and self.workplace.batch == 1:
            complaints.append(f"{differ}; {self._arithmetic()}")
        if complaints:
            raise GateFailed("; ".join(complaints))
        if mismatches:
            raise _RowsDiffer(differ)
        drifts = [deviation for deviation in deviations if deviation.pair == DRIFT]
        worst = max(drifts, key=lambda drift: drift.max_abs_diff / drift.bound)
        goldens, proofs = self.workplace.golden_hashes(), []
        with self.preparation.watch("gates", len(chosen), "ways to evaluate faults") as advance:
            for target_place, sites in chosen.items():
                proofs.append(self._evaluation(*target_place, sites))
                advance(1)
        gates = GateFacts(
            parity=[ParityFacts(**asdict(deviation)) for deviation in deviations],
            drift=DriftFacts(max_abs_diff=worst.max_abs_diff, bound=worst.bound),
            zero_fault=ZeroFaultFacts(rows=rows, mismatches=mismatches),
            weights=weights,
            notes=[*self._notes(), *self.before.note()],
            goldens=goldens,
            **{name: facts for name, facts in protection.items() if facts is not None},
            evaluation={proof.key: EvaluationFacts(**proof.to_json()) for proof in proofs},
        )
        return gates.model_copy(update={"cache": self.before.notes}) if self.before.notes else gates

    # ---- the gates

    def _parity(self, target: str, plain: JudgedOutputs, bounds: Bounds) -> list[OutputDeviation]:
        reference, engine = self.preparation.reference(target), self.workplace.engine(target, "activation")
        outputs, twin = plain.values, engine.judged(engine.golden).values
        original = [] if reference is None else [(self._reference_pair, reference, outputs)]
        return parity([*original, (DRIFT, outputs, twin)], target, bounds)

    @property
    def _reference_pair(self) -> str:
        """Which two engines the reference golden compares: a module of a user's own file has that of the whole file."""
        return PARITY if self.spec.model.onnx is None else WHOLE

    def _alarms(self, plain: Mapping[str, JudgedOutputs]) -> tuple[AlarmFacts | None, list[str]]:
        """Alarms without a fault: of the plain engines, and of those that faults are injected into."""
        engines = [self.workplace.engine(*target_place) for target_place in self.spec.target_places]
        raised = [engine.judged(engine.golden).alarms for engine in engines]
        images = self.workplace.images.ids
        raised += [outputs.alarms for outputs in plain.values()]
        facts, complaints = false_alarms(self.spec.engine.backend, images, raised)
        if facts is not None:
            twins = [self.workplace.engine(target, "activation") for target in plain]
            if silent := [flag for twin in twins for flag in silent_flags(twin)]:
                complaints.append(
                    f"raised by hand, {', '.join(silent)} of the instrumented engine is not the alarm of its image alone:"
                    " what its checks see of faults is not told"
                )
        if facts is not None and self.spec.protection.on_detected != "none":
            facts = facts.model_copy(update={"second_run_seconds": second_run_seconds(self.workplace)})
        return facts, complaints

    def _plain_outputs(self, target: str) -> JudgedOutputs:
        """Outputs of the engine as it would be deployed: the plain file, prepacked weights."""
        engine = self.workplace.engine(target, "activation")
        with self.workplace.open(self.workplace.request(target, Files(target).plain)) as runner:

            def run(rows: NDArray[np.int64]) -> NDArray[np.float32]:
                return runner.run({engine.input_name: engine.inputs(rows)})[engine.output_name]

            return engine.judged(run_batched(run, len(engine.images), engine.batch))

    def _weights(self, target: str, sites: Sequence[Sequence[str]]) -> WeightGate:
        """Which weights may be struck in place; what may not is told."""
        engine = self.workplace.engine(target, "weight")
        chosen = engine.table.select_any("weight", sites)
        with self.preparation.watch("gates", len(chosen), f"weights of {target}") as advance:
            gate = self.before.gate(
                "weights",
                engine,
                WeightGate,
                lambda: weight_gate_of(self.workplace, engine, chosen, advance),
                sites=chosen,
            )
        if self.before.was_passed("weights", engine):
            check_weight(engine, gate, chosen)
        for reason, names in gate.by_reason().items():
            log.warning("gates: %d weights of %s are left out (%s): %s", len(names), target, ", ".join(names), reason)
        return gate

    def _strikable(
        self, target: str, where: Where, sites: Sequence[Sequence[str]], weights: Mapping[str, WeightGate]
    ) -> list[Site]:
        """Raises GateFailed where a section has nothing left to strike."""
        table = self.workplace.engine(target, where).table
        if where == "weight":
            table = table.without(left_out.site for left_out in weights[target].left_out)
        try:
            return table.select_any(where, sites)
        except UsageError as error:
            raise GateFailed(str(error)) from error

    def _zero_fault(self, target: str, where: Where, chosen: Sequence[Site]) -> ZeroFaultFacts:
        """Raises EngineDiffers where gates of this engine were passed before, and its rows are not golden here."""
        engine = self.workplace.engine(target, where)
        faults = len(chosen) if where == "weight" else self.spec.gates.zero_fault_rows
        settings = {"faults": faults, "detector": self.spec.detector}
        facts = self.before.gate(
            "zero-fault",
            engine,
            ZeroFaultFacts,
            lambda: self._run_zero_faults(engine, chosen, faults),
            sites=chosen,
            settings=settings,
        )
        if facts.mismatches:
            self.before.failed("zero-fault", engine)
        if self.before.was_passed("zero-fault", engine):
            check_zero_faults(engine, lambda few: self._run_zero_faults(engine, chosen, few))
        return facts

    def _run_zero_faults(self, engine: CampaignEngine, chosen: Sequence[Site], faults: int) -> ZeroFaultFacts:
        target, where = engine.target, engine.where
        plan_slice = zero_fault_slice(target, where, chosen, engine.images.ids, faults, self.spec.seed)
        words = golden_words(self.workplace, plan_slice) if where == "activation" else np.zeros(0, np.uint32)
        rows, mismatches = zero_fault(fault_runner_for(self.workplace, target, where), plan_slice, words)
        return ZeroFaultFacts(rows=rows, mismatches=mismatches)

    def _evaluation(self, target: str, where: Where, sites: Sequence[Site]) -> Proof:
        """What runs less than the whole, and gives the same."""
        prove, engine = (
            prove_activations if where == "activation" else prove_weights,
            self.workplace.engine(target, where),
        )
        if why := "" if self.spec.engine.evaluation == WHOLE_TWIN else unrepaid(self.workplace, target, where, sites):
            proof = Proof(target, where, WHOLE_TWIN, why)
        else:
            facts = self.before.gate(
                "evaluation",
                engine,
                EvaluationFacts,
                lambda: EvaluationFacts(**prove(self.workplace, target, sites).to_json()),
                sites=sites,
                settings={"evaluation": self.spec.engine.evaluation},
            )
            proof = Proof(target, where, facts.by, facts.why, facts.record)
        why = f" ({proof.why})" if proof.why else ""
        log.info("gates: faults in %ss of %s are evaluated by: %s%s", where, target, proof.by, why)
        return proof

    # ---- what is told

    def _notes(self) -> Iterator[str]:
        """Whatever was decided otherwise than the spec says."""
        if why := self.workplace.tuned.why_batch:
            yield f"batch 1 instead of {self.spec.engine.batch}: {why}"
        for (target, where), sites in self.spec.target_places.items():
            patterns = dict.fromkeys(pattern for own in sites for pattern in own)
            for pattern in self.workplace.table(target).unmatched_exclusions(where, patterns):
                yield (
                    f"{pattern!r} excludes no {where} of {target}: there is none of that name in"
                    f" {self.spec.engine.precision}"
                )

    def _arithmetic(self) -> str:
        computes = self.workplace.engine(*next(iter(self.spec.target_places))).runner.info.options.get("arithmetic", "")
        if str(computes).startswith("emulated"):
            return (
                f"the engine's arithmetic is {computes}, and a port rounds what it writes to"
                f" {self.spec.engine.precision}"
            )
        return "a port changes what it should leave alone"
