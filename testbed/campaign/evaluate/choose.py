"""Which evaluation a campaign uses for a target: the fastest of those that its gates proved on this engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import onnx

from testbed.campaign.evaluate.attention.evaluator import AttentionEvaluator, AttentionPaths
from testbed.campaign.evaluate.attention.gate import prove_attention
from testbed.campaign.evaluate.attention.golden import AttentionTarget
from testbed.campaign.evaluate.attention.graphs import attention_sites
from testbed.campaign.evaluate.contract import Evaluator, RunWhole
from testbed.campaign.evaluate.golden_words import read_live
from testbed.campaign.evaluate.part_engines import opener
from testbed.campaign.evaluate.suffix.evaluator import SuffixEvaluator
from testbed.campaign.evaluate.suffix.gate import prove_suffix
from testbed.campaign.evaluate.suffix.shortcuts import Shortcuts
from testbed.campaign.evaluate.weights.evaluator import WeightShortcuts, WeightSuffix
from testbed.campaign.evaluate.weights.gate import prove_weights as prove_weight_suffix
from testbed.campaign.evaluate.whole import WholeTwin, whole_weights
from testbed.campaign.files import Files
from testbed.campaign.folder.engine import CampaignEngine
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.proofs import WHOLE, AttentionRecord, Proof, SuffixRecord, WeightRecord
from testbed.core.errors import StaleArtefact
from testbed.core.protected import PREFIX
from testbed.core.site import Site
from testbed.instrument.cut.flow import CannotCut, Flow
from testbed.instrument.cut.stages import Stages

_ASKED = "the spec asks for it"


def prove_activations(workplace: Workplace, target: str, sites: Sequence[Site]) -> Proof:
    """What the gates found of the target's faster evaluations; `evaluator_for` applies it anywhere.

    sites: the activations that the campaign strikes.
    """
    engine = workplace.engine(target, "activation")
    if workplace.spec.engine.evaluation == WHOLE:
        return Proof(target, "activation", WHOLE, _ASKED)
    return _prove_attention(workplace, engine) if target == "attention" else _prove_suffix(workplace, engine, sites)


def prove_weights(workplace: Workplace, target: str, sites: Sequence[Site]) -> Proof:
    """The same of faults in the weights that the campaign strikes; `weights_for` applies it."""
    if workplace.spec.engine.evaluation == WHOLE:
        return Proof(target, "weight", WHOLE, _ASKED)
    engine = workplace.engine(target, "weight")
    try:
        stages = _stages(workplace, engine)
    except CannotCut as error:
        return Proof(target, "weight", WHOLE, str(error))
    proof = prove_weight_suffix(
        lambda plan: _weight_suffix(workplace, engine, stages, plan), whole_weights(engine), sites, workplace.spec.seed
    )
    if proof.plan is None:
        return Proof(target, "weight", WHOLE, "parts do not give the whole's bits", proof.record.to_json())
    return Proof(target, "weight", "suffix", record=proof.record.to_json())


def weights_for(workplace: Workplace, engine: CampaignEngine) -> RunWhole:
    """The whole engine until the gates have proven parts of it."""
    proof = workplace.proof(engine.target, "weight")
    if proof.by != "suffix":
        return whole_weights(engine)
    with _as_recorded(workplace):
        seen = proof.seen
        assert isinstance(seen, WeightRecord)
        plan = WeightShortcuts.from_record(seen.plan or {})
    return _weight_suffix(workplace, engine, _stages(workplace, engine), plan).inject


def unproven_weights(workplace: Workplace, engine: CampaignEngine) -> WeightSuffix | None:
    """Suffixes as the gates try them first, to see what they cost; None where the whole is run. The caller closes them."""
    if workplace.spec.engine.evaluation == WHOLE:
        return None
    try:
        return _weight_suffix(workplace, engine, _stages(workplace, engine), WeightShortcuts())
    except CannotCut:
        return None


def _weight_suffix(workplace: Workplace, engine: CampaignEngine, stages: Stages, plan: WeightShortcuts) -> WeightSuffix:
    return WeightSuffix(
        stages, plan, opener(workplace, engine), whole_weights(engine), engine.inputs, len(engine.images), engine.batch
    )


def evaluator_for(workplace: Workplace, engine: CampaignEngine) -> Evaluator:
    """The whole twin until the gates have proven another."""
    proof = workplace.proof(engine.target, "activation")
    whole = WholeTwin(engine)
    if proof.by == "attention":
        target = _attention(workplace, engine)
        assert target is not None
        with _as_recorded(workplace):
            seen = proof.seen
            assert isinstance(seen, AttentionRecord)
            paths = AttentionPaths.of(seen)
        return AttentionEvaluator(target, whole, paths, workplace.judge.per_image(engine.images), workplace.judge.rtol)
    if proof.by == "suffix":
        with _as_recorded(workplace):
            seen = proof.seen
            assert isinstance(seen, SuffixRecord)
            plan = Shortcuts.from_record(seen.plan or {})
        return _suffix(workplace, engine, whole, _stages(workplace, engine), plan)
    return whole


@contextmanager
def _as_recorded(workplace: Workplace) -> Iterator[None]:
    """Raises StaleArtefact where what the gates recorded of an evaluation is not what they write."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        folder = workplace.folder
        raise StaleArtefact(
            f"what the gates recorded in {folder.path} of a faster evaluation is damaged ({error}); {folder.again('gates')}"
        ) from error


def _prove_suffix(workplace: Workplace, engine: CampaignEngine, sites: Sequence[Site]) -> Proof:
    whole, in_parts = WholeTwin(engine), [site for site in sites if not site.name.startswith(PREFIX)]
    if not in_parts:
        return Proof(engine.target, "activation", WHOLE, "faults in checks are run whole")
    try:
        stages = _stages(workplace, engine)
    except CannotCut as error:
        return Proof(engine.target, "activation", WHOLE, str(error))

    def make(plan: Shortcuts) -> SuffixEvaluator:
        return _suffix(workplace, engine, whole, stages, plan)

    proof = prove_suffix(
        make,
        whole,
        lambda injections: read_live(engine, injections),
        len(engine.images),
        workplace.spec.seed,
        sites=in_parts,
    )
    if proof.plan is None:
        tried = [trial.wrong for trial in proof.record.tried]
        reason = " ".join((proof.record.error or (tried[-1] if tried else "")).split())  # refused, or other bits
        why = "parts do not give the whole's bits" + (f": {reason}" if reason else "")
        return Proof(engine.target, "activation", WHOLE, why, proof.record.to_json())
    return Proof(engine.target, "activation", "suffix", record=proof.record.to_json())


def _stages(workplace: Workplace, engine: CampaignEngine) -> Stages:
    """Raises CannotCut."""
    return Stages.of(Flow.of(onnx.load_from_string(workplace.model(Files(engine.target).plain))), engine.table)


def _suffix(
    workplace: Workplace, engine: CampaignEngine, whole: WholeTwin, stages: Stages, plan: Shortcuts
) -> SuffixEvaluator:
    return SuffixEvaluator(
        stages, plan, opener(workplace, engine), whole, engine.inputs, len(engine.images), engine.batch
    )


def _prove_attention(workplace: Workplace, engine: CampaignEngine) -> Proof:
    target = _attention(workplace, engine)
    if target is None:
        own = workplace.spec.model.onnx is None
        why = "not an attention module in fp32" if own else "its tensors are not all those of one attention in fp32"
        return Proof(engine.target, "activation", WHOLE, why)
    record = prove_attention(target, WholeTwin(engine), len(engine.images), workplace.spec.seed)
    if not AttentionPaths.of(record).useful:
        why = record.why or "no faster path gave the whole twin's bits"
        return Proof(engine.target, "activation", WHOLE, why, record.to_json())
    return Proof(engine.target, "activation", "attention", record=record.to_json())


def _attention(workplace: Workplace, engine: CampaignEngine) -> AttentionTarget | None:
    files = Files(engine.target)
    plain, twin = map(workplace.model, (files.plain, files.twin))
    sites = attention_sites(engine.table, plain)
    if sites is None:
        return None
    return AttentionTarget(plain, twin, engine.table, sites, opener(workplace, engine), engine.inputs, engine.batch)
