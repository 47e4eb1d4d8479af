"""A pruned model computes what the original computes without those parts, and is a model like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.core.errors import UsageError
from testbed.models.config import ViTConfig, uniform
from testbed.models.vit import ViT
from testbed.models.weights import load_model, save_model
from testbed.prune.physical import masked, prune
from testbed.sensitivity.circuits.components import Component, KeptComponents, components

torch.set_num_threads(1)


def config(**changes: Any) -> ViTConfig:
    base = {"image": 8, "patch": 4, "channels": 1, "width": 12, "classes": 5, "head_width": 4}
    return uniform(**({"depth": 3, "heads": 3, "mlp": 10} | base | changes))


def model_of(config: ViTConfig, seed: int = 0) -> ViT:
    torch.manual_seed(seed)
    model = ViT(config).eval()
    with torch.no_grad():  # biases and norms that matter
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
VARIANTS: list[dict[str, Any]] = [
    {},
    {"norm_order": "post", "final_norm": "none"},
    {"attention": "differential", "qkv_bias": True},
    {"pooling": "mean", "patchify": "conv", "qkv_bias": True, "final_norm": "tokens"},
    {"layer_scale": True, "gated_mlp": True, "activation": "silu", "qk_norm": True, "registers": 2},
    {"distillation": "head", "final_norm": "tokens", "embed_norm": True, "patch_bias": False},
    {"pooling": "cls_and_mean", "final_norm": "tokens"},
]


@st.composite
def some_kept(draw: st.DrawFn) -> KeptComponents:
    heads = tuple(tuple(sorted(draw(st.sets(st.integers(0, 2), max_size=3)))) for _ in range(3))
    neurons = tuple(tuple(sorted(draw(st.sets(st.integers(0, 9), max_size=10)))) for _ in range(3))
    return KeptComponents(heads, neurons)


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=25, deadline=None)
@given(kept=some_kept())
def test_a_pruned_model_is_the_masked_one(variant: dict[str, Any], kept: KeptComponents) -> None:
    model = model_of(config(**variant))
    if kept.is_empty:
        with pytest.raises(UsageError, match="nothing of any block would be left"):
            prune(model, kept)
        return
    smaller = prune(model, kept)
    with torch.inference_mode(), masked(model, kept):
        wanted = model(IMAGES)
    with torch.inference_mode():
        torch.testing.assert_close(smaller(IMAGES), wanted, rtol=0, atol=1e-5)
    assert smaller.config.heads == tuple(map(len, kept.heads))
    assert smaller.config.mlp == tuple(map(len, kept.neurons))


def test_masking_is_undone_and_pruning_leaves_the_original_alone() -> None:
    model = model_of(config())
    before = model(IMAGES)
    kept = KeptComponents.all_of(model.config).without(components(model.config, ["head"])[:4])
    smaller = prune(model, kept)
    with masked(model, kept):
        assert not torch.allclose(model(IMAGES), before, atol=1e-3)
    assert torch.equal(model(IMAGES), before)
    with torch.no_grad():
        smaller.head.bias.add_(1)
    assert torch.equal(model(IMAGES), before)


def test_everything_kept_is_the_same_model_to_the_bit() -> None:
    model = model_of(config(attention="differential"))
    same = prune(model, KeptComponents.all_of(model.config))
    assert torch.equal(same(IMAGES), model(IMAGES))
    assert same.config == model.config


def test_parameters_go_by_the_size_of_what_was_cut() -> None:
    model = model_of(config(qkv_bias=True))

    def size(m: ViT) -> int:
        return sum(p.numel() for p in m.parameters())

    every = components(model.config, ["head", "neuron"])
    head, neuron = (next(c for c in every if c.kind == kind) for kind in ("head", "neuron"))
    whole = KeptComponents.all_of(model.config)
    assert size(model) - size(prune(model, whole.without([head]))) == 4 * (3 * 12 + 3) + 12 * 4
    assert size(model) - size(prune(model, whole.without([neuron]))) == 12 + 1 + 12


def test_a_block_without_anything_is_legal_and_is_a_file_like_any_other(tmp_path: Path) -> None:
    model = model_of(config())
    middle = next(c for c in components(model.config, ["block"]) if c.block == 1)
    smaller = prune(model, KeptComponents.all_of(model.config).without([middle]))
    assert (smaller.config.heads, smaller.config.mlp) == ((3, 0, 3), (10, 0, 10))
    save_model(tmp_path / "model.safetensors", smaller)
    assert torch.equal(load_model(tmp_path / "model.safetensors")(IMAGES), smaller(IMAGES))


def test_what_is_not_of_the_model_is_refused() -> None:
    model = model_of(config())
    for heads, told in (
        (((0,), (0,)), "2 blocks name the heads"),
        (((0, 3), (0,), (0,)), "heads 0 to 2"),
        (((1, 0), (0,), (0,)), "each can be kept once"),
    ):
        with pytest.raises(UsageError, match=told):
            prune(model, KeptComponents(heads, ((0,), (0,), (0,))))


def test_components_cover_the_model_once_in_order() -> None:
    unequal = ViTConfig(image=8, patch=4, channels=1, width=12, heads=(2, 0, 1), mlp=(5, 3, 0), classes=5, head_width=4)
    every = components(unequal, ["head", "chunk"], chunks=4)
    names = [component.name for component in every]
    assert names[:6] == ["block.0.head.0", "block.0.head.1", *(f"block.0.mlp.chunk.{n}" for n in range(4))]
    assert names[6:] == [*(f"block.1.mlp.chunk.{n}" for n in range(3)), "block.2.head.0"]
    assert sorted(n for c in every if c.block == 0 for n in c.neurons) == list(range(5))
    assert KeptComponents.all_of(unequal).without(every).is_empty
    (first, *_) = components(unequal, ["block"])
    assert (first.heads, first.neurons) == ((0, 1), (0, 1, 2, 3, 4))
    for bad, told in ((["heads"], "unknown kind"), ([], "at least one")):
        with pytest.raises(UsageError, match=told):
            components(unequal, bad)
    assert not KeptComponents.all_of(unequal).holds(Component("head", 1))
