"""What holds of every score: its names, its order, what it refuses, and parts that do nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

import testbed
from testbed.cli.commands.results.rank import rank
from testbed.core.errors import UsageError
from testbed.models.vit import ViT
from testbed.sensitivity.circuits.components import KINDS, Component, ComponentKind, components
from testbed.sensitivity.rank.catalogue import FACTS, METHODS, PRUNE_METHODS, ScoreMethod
from testbed.sensitivity.rank.images import ScoredImages
from testbed.sensitivity.rank.methods.table import SCORERS
from testbed.sensitivity.rank.scores import scores
from testbed.sensitivity.rank.settings import ScoreSettings

DEFINED = [(by, kind) for by in METHODS for kind in KINDS if kind in FACTS[by].kinds]
REFUSED = [(by, kind) for by in METHODS for kind in KINDS if kind not in FACTS[by].kinds]
SIZES: tuple[ScoreMethod, ...] = ("gradient", "magnitude", "attnlrp")


def test_the_catalogue_has_facts_and_a_function_of_every_method() -> None:
    assert set(FACTS) == set(SCORERS) == set(METHODS)
    assert set(PRUNE_METHODS) < set(METHODS)
    assert all({"head", "chunk"} <= set(FACTS[by].kinds) for by in PRUNE_METHODS)
    settings = {name for facts in FACTS.values() for name in facts.settings}
    assert settings < set(ScoreSettings().to_json())
    assert all(set(facts.kinds) <= set(get_args(ComponentKind)) for facts in FACTS.values())


def test_the_help_the_api_and_the_tutorial_name_every_score() -> None:
    tutorial = Path(__file__).parents[4] / "docs" / "tutorials" / "rank-and-prune.md"
    help_text = " ".join((rank.help or "").split())
    for by, facts in FACTS.items():
        assert f"{by} ({facts.summary})" in help_text
        assert f'"{by}"' in (testbed.rank_components.__doc__ or "")
        assert f"`{by}`" in tutorial.read_text()


@pytest.mark.parametrize(("by", "kind"), DEFINED)
@pytest.mark.parametrize("changes", [{}, {"attention": "differential", "pooling": "mean"}, {"norm_order": "post"}])
def test_every_component_has_a_score_and_the_same_one_again(
    make_model: Callable[..., ViT], scored: ScoredImages, by: ScoreMethod, kind: ComponentKind, changes: dict[str, str]
) -> None:
    model = make_model(**changes)
    ranked = scores(model, scored.dataset, by, kind, scored.settings)
    assert [score.component for score in ranked] == [part.name for part in components(model.config, [kind], 3)]
    assert all(np.isfinite(score.score) for score in ranked)
    assert len({score.score for score in ranked}) > 1
    assert scores(model, scored.dataset, by, kind, scored.settings) == ranked


@pytest.mark.parametrize("by", ["identifiability", "attention-distance", *SIZES])
def test_residual_post_norm_models_are_scored(
    make_model: Callable[..., ViT], scored: ScoredImages, by: ScoreMethod
) -> None:
    for kind in ("block", "head"):
        ranked = scores(make_model(norm_order="residual_post"), scored.dataset, by, kind, scored.settings)
        assert all(np.isfinite(score.score) for score in ranked)


@pytest.mark.parametrize(("by", "kind"), REFUSED)
def test_what_a_score_is_not_of_is_refused_in_a_line(
    make_model: Callable[..., ViT], scored: ScoredImages, by: ScoreMethod, kind: ComponentKind
) -> None:
    with pytest.raises(UsageError, match=f"^[^\n]* scores [^\n]*blocks, not each {kind}$"):
        scores(make_model(), scored.dataset, by, kind, scored.settings)


def test_a_model_without_such_components_is_refused(make_model: Callable[..., ViT], scored: ScoredImages) -> None:
    model = ViT(make_model().config.with_(heads=(0, 0)))
    for by in METHODS:
        if "head" in FACTS[by].kinds:
            with pytest.raises(UsageError, match="no such components"):
                scores(model, scored.dataset, by, "head", scored.settings)


def silence(model: ViT, part: Component) -> None:
    """Sets what the component is multiplied by on its way to the stream to zero."""
    block = model.get_submodule(f"block.{part.block}")
    with torch.no_grad():
        if part.heads:
            columns = [column for head in part.heads for column in range(4 * head, 4 * head + 4)]
            block.get_parameter("attn.proj.weight")[:, columns] = 0
        if part.neurons:
            block.get_parameter("mlp.fc2.weight")[:, list(part.neurons)] = 0
        if part.kind == "block":
            for name in ("attn.proj", "mlp.fc2"):
                block.get_parameter(f"{name}.bias").zero_()


@pytest.mark.parametrize("by", SIZES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm_order", ["pre", "post"])
def test_what_adds_nothing_has_no_size(
    make_model: Callable[..., ViT], scored: ScoredImages, by: ScoreMethod, kind: ComponentKind, norm_order: str
) -> None:
    model = make_model(norm_order=norm_order)
    silent = components(model.config, [kind], 3)[1]
    silence(model, silent)
    by_name = {score.component: score.score for score in scores(model, scored.dataset, by, kind, scored.settings)}
    assert by_name.pop(silent.name) == 0
    assert min(by_name.values()) > 0


def test_what_adds_nothing_lifts_no_class(make_model: Callable[..., ViT], scored: ScoredImages) -> None:
    model = make_model()
    silent = components(model.config, ["head"])[1]
    silence(model, silent)
    ranked = scores(model, scored.dataset, "identifiability", "head", scored.settings)
    assert {score.component: score.score for score in ranked}[silent.name] == 0


def test_manifests_name_what_a_score_rests_on() -> None:
    settings = ScoreSettings(images=20, steps=7)
    base = {"images": 20, "seed": 0, "chunks": 8}
    assert settings.used_by("magnitude") == base
    assert settings.used_by("acdc") == base | {"tau": 0.05, "rule": "incremental", "ablation": "zero"}
    assert settings.used_by("eap-ig") == base | {
        "loss": "task", "corrupt": "other_class", "snr_db": 0.0, "steps": 7,
    }  # fmt: skip
