"""A self-test: a model whose circuit is known exactly, since all but three of its 48 components have weights of zero."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from testbed.models.config import uniform
from testbed.models.vit import ViT
from testbed.sensitivity.circuit_study.curves import CurveSettings, measure_curves
from testbed.sensitivity.circuits.ablation import Replacements
from testbed.sensitivity.circuits.acdc import acdc
from testbed.sensitivity.circuits.analysis_set import AnalysisSet
from testbed.sensitivity.circuits.components import Component, components
from testbed.sensitivity.circuits.eap import EMBED, OUTPUT, eap
from testbed.sensitivity.circuits.faithfulness import CircuitTask
from tests.support.blocks import blocks_of
from tests.support.taught import teach
from tests.support.three_classes import images_of_three_classes

NEEDED = {"block.0.head.2", "block.1.mlp.chunk.5", "block.3.head.0"}


@pytest.fixture(scope="module")
def known() -> ViT:
    """Nothing but `NEEDED` writes to the stream, and the model is trained to use it."""
    torch.manual_seed(0)
    sizes = {"image": 8, "patch": 4, "channels": 1, "width": 16, "head_width": 4, "classes": 3}
    model = ViT(uniform(4, 4, 32, pooling="mean", final_norm="none", **sizes)).eval()

    def hold() -> None:
        for block in blocks_of(model):
            block.attn.proj.bias.zero_()
            block.mlp.fc2.bias.zero_()
        for part in parts_of(model):
            block = blocks_of(model)[part.block]
            if part.name in NEEDED:
                continue
            if part.kind == "head":
                block.attn.proj.weight[:, part.number * 4 : (part.number + 1) * 4] = 0
            else:
                block.mlp.fc2.weight[:, list(part.neurons)] = 0

    teach(model, images_of_three_classes(), hold)
    return model


def parts_of(model: ViT) -> list[Component]:
    return components(model.config, ["head", "chunk"], chunks=8)


def scores_of(by: str, model: ViT, images: AnalysisSet, ablation: Any = "zero") -> dict[str, float]:
    if by == "acdc":
        return acdc(model, images, parts_of(model), 1e-6, ablation=ablation).scores
    nodes = eap(model, images, parts_of(model), loss="logit_difference", steps=0 if by == "eap" else 5).nodes
    return {name: abs(score) for name, score in nodes.items()}


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
def test_acdc_keeps_exactly_the_known_circuit(known: ViT, analysis: AnalysisSet, ablation: Any) -> None:
    circuit = acdc(known, analysis, parts_of(known), 1e-6, ablation=ablation)
    assert {part.name for part in parts_of(known) if circuit.kept.holds(part)} == NEEDED
    assert circuit.kl == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("steps", [0, 5])
def test_attribution_is_not_zero_exactly_on_the_known_circuit(known: ViT, analysis: AnalysisSet, steps: int) -> None:
    scored = eap(known, analysis, parts_of(known), loss="logit_difference", steps=steps)
    assert {name for name, score in scored.nodes.items() if score != 0} == NEEDED
    assert scored.ranked[:3] == sorted(NEEDED, key=lambda name: -abs(scored.nodes[name]))
    assert {source for (source, _), score in scored.edges.items() if score != 0} == {EMBED, *NEEDED}
    among = {(source, reader) for (source, reader), score in scored.edges.items() if score != 0}
    assert {reader for _, reader in among} == {*NEEDED, OUTPUT}
    assert ("block.3.head.0", "block.1.mlp.chunk.5") not in scored.edges  # edges go forward only


@pytest.mark.parametrize("by", ["acdc", "eap", "eap-ig"])
@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
def test_the_curve_reaches_1_at_the_known_circuits_size(
    known: ViT, analysis: AnalysisSet, by: str, ablation: Any
) -> None:
    scores, parts = scores_of(by, known, analysis, ablation), parts_of(known)
    replaced = Replacements.of(known, analysis, ablation)
    task = CircuitTask.of(known, analysis, "logit_difference", replaced, corrupt="mean")
    settings = CurveSettings((0, 1, 2, 3, 4, 12, 24, 48), orders=5)
    curve, chance = measure_curves(task, parts, {by: sorted(parts, key=lambda part: -scores[part.name])}, settings)
    for point in curve.points:
        if point.size >= len(NEEDED):
            assert (point.faithfulness, point.low, point.high) == pytest.approx((1, 1, 1), abs=1e-5)
    before = [point for point in curve.points if point.size < len(NEEDED)]
    bound = sum(abs(1 - point.faithfulness) for point in before) / len(parts)  # nothing but the sizes below it
    assert curve.cmd.value <= bound + 1e-5
    assert curve.cmd.value < 0.07 < chance.cmd.low
    assert curve.cmd_gain is not None
    assert curve.cmd_gain.low > 0
    assert "better than a random order by" in curve.verdict


def test_a_wrong_circuit_is_not_faithful(known: ViT, analysis: AnalysisSet) -> None:
    """The test above can fail: one needed component at the end of the order."""
    wrong = sorted(parts_of(known), key=lambda part: part.name not in NEEDED)
    wrong.append(wrong.pop(0))
    task = CircuitTask.of(known, analysis, "logit_difference", Replacements.of(known, analysis, "zero"), corrupt="mean")
    curve = measure_curves(task, parts_of(known), {"wrong": wrong}, CurveSettings((0, 3, 24, 47, 48), orders=5))[0]
    assert abs(curve.points[-2].faithfulness - 1) > 0.01
