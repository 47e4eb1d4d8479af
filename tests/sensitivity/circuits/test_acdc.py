"""The circuit that is kept: against all subsets where greedy removal is optimal, and whatever order images come in."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from testbed.core.errors import UsageError
from testbed.models.vit import ViT
from testbed.prune.physical import prune
from testbed.sensitivity.circuits.ablation import Replacements, logits_of
from testbed.sensitivity.circuits.acdc import acdc, backwards, divergence
from testbed.sensitivity.circuits.analysis_set import AnalysisSet
from testbed.sensitivity.circuits.components import KeptComponents, components
from tests.support.blocks import blocks_of


def circuit_of(make_model: Callable[..., ViT], needed: set[str]) -> ViT:
    """A model whose output needs these heads and chunks, and hardly anything else."""
    model = make_model(pooling="mean")
    with torch.no_grad():
        for part in components(model.config, ["head", "chunk"], chunks=2):
            block, factor = blocks_of(model)[part.block], 1.0 if part.name in needed else 1e-4
            if part.kind == "head":
                columns = slice(part.heads[0] * 4, (part.heads[0] + 1) * 4)
                block.attn.proj.weight[:, columns] *= factor
            else:
                block.mlp.fc2.weight[:, list(part.neurons)] *= factor
        for block in blocks_of(model):
            block.attn.proj.bias.zero_()
            block.mlp.fc2.bias.zero_()
    return model


NEEDED = {"block.0.head.1", "block.1.mlp.chunk.0", "block.1.head.0"}


@pytest.mark.parametrize("rule", ["incremental", "cumulative"])
@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
def test_the_kept_set_is_the_smallest_that_keeps_the_output(
    make_model: Callable[..., ViT], analysis: AnalysisSet, rule: Any, ablation: Any
) -> None:
    """Of all 256 sets of parts, the smallest whose divergence stays below tau; the greedy order finds it here."""
    model, tau = circuit_of(make_model, NEEDED), 1e-4
    parts = components(model.config, ["head", "chunk"], chunks=2)
    found = acdc(model, analysis, parts, tau, rule=rule, ablation=ablation)

    full, replaced = logits_of(model, analysis), Replacements.of(model, analysis, ablation)

    def kl(gone: Any) -> float:
        return divergence(full, logits_of(model, analysis, KeptComponents.all_of(model.config).without(gone), replaced))

    by_size = (  # most removed first
        [set(gone) for gone in itertools.combinations(parts, size) if kl(gone) < tau]
        for size in range(len(parts), -1, -1)
    )
    assert next(filter(None, by_size)) == [set(found.removed)]
    assert {part.name for part in parts} - {part.name for part in found.removed} == NEEDED
    assert found.kl == pytest.approx(kl(found.removed))
    assert found.kl == pytest.approx(sum(step.increment for step in found.steps if step.removed))


def test_rules_differ_when_many_small_losses_add_up(make_model: Callable[..., ViT], analysis: AnalysisSet) -> None:
    model = make_model()
    parts = components(model.config, ["neuron", "head"])
    increments = acdc(model, analysis, parts, 0.02)
    budget = acdc(model, analysis, parts, 0.02, rule="cumulative")
    assert budget.kl < 0.02 < increments.kl
    assert all(step.removed == (step.increment < 0.02) for step in increments.steps)
    assert all(step.removed == (step.kl < 0.02) for step in budget.steps)


def test_components_are_visited_from_the_output_back(make_model: Callable[..., ViT]) -> None:
    names = [part.name for part in backwards(components(make_model().config, ["head", "chunk", "block"], chunks=1))]
    one = ["block.1", "block.1.mlp.chunk.0", "block.1.head.0", "block.1.head.1"]
    assert names == one + [name.replace("block.1", "block.0") for name in one]


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
def test_no_score_depends_on_the_order_of_the_images(
    make_model: Callable[..., ViT], analysis: AnalysisSet, ablation: Any
) -> None:
    model = make_model()
    parts = components(model.config, ["head", "chunk"], chunks=2)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    turned = AnalysisSet(analysis.images[order], analysis.labels[order], tuple(analysis.ids[n] for n in order.tolist()))
    first, second = (acdc(model, images, parts, 0.05, ablation=ablation).scores for images in (analysis, turned))
    assert first == pytest.approx(second, abs=1e-6)


def test_zero_ablation_is_what_pruning_does(make_model: Callable[..., ViT], analysis: AnalysisSet) -> None:
    model = make_model()
    gone = components(model.config, ["head", "chunk"], chunks=2)[:5]  # all of block 0, and a head of block 1
    kept = KeptComponents.all_of(model.config).without(gone)
    wanted = logits_of(model, analysis, kept, Replacements.of(model, analysis, "zero"))
    torch.testing.assert_close(logits_of(prune(model, kept), analysis), wanted, rtol=0, atol=1e-5)


def test_divergence_is_that_of_the_distributions() -> None:
    p, q = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]]), torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.25, 0.25]])
    wanted = (0.7 * torch.log(torch.tensor(0.7 / 0.6)) + 0.2 * torch.log(torch.tensor(0.2 / 0.3))) / 2
    assert divergence(p.log() + 3, q.log() - 1) == pytest.approx(float(wanted), rel=1e-5)


def test_what_makes_no_sense_is_refused(make_model: Callable[..., ViT], analysis: AnalysisSet) -> None:
    model = make_model()
    parts = components(model.config)
    for arguments, told in (
        ({"tau": 0.0}, "above 0"),
        ({"tau": float("nan")}, "above 0"),
        ({"tau": 0.1, "rule": "greedy"}, "unknown rule"),
        ({"tau": 0.1, "ablation": "noise"}, "unknown ablation"),
    ):
        with pytest.raises(UsageError, match=told):
            acdc(model, analysis, parts, **arguments)
    with pytest.raises(UsageError, match="no such components"):
        acdc(model, analysis, [], 0.1)
