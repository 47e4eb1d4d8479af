"""Families beyond the plain ViT give their library's own logits, from its own files; the libraries are the oracle."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import testbed.data.torchvision_import  # noqa: F401  # makes torchvision importable for the libraries below
from testbed.core.errors import UsageError
from testbed.models.importers import check_against_library, import_weights
from tests.support.weights import difference, lively, saved, stated_facts, timm_vit

TIMM: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "layer scale": ({"init_values": 0.1}, {"layer_scale": True}),
    "DeiT III: layer scale, CLS without position": (
        {"init_values": 0.1, "no_embed_class": True},
        {"layer_scale": True, "position_on": "patches"},
    ),
    "registers with positions": ({"reg_tokens": 3}, {"registers": 3, "position_on": "tokens"}),
    "DINOv2 with registers": (
        {"reg_tokens": 4, "no_embed_class": True, "init_values": 0.1},
        {"registers": 4, "position_on": "patches"},
    ),
    "registers without CLS": (
        {"reg_tokens": 2, "class_token": False, "global_pool": "avg"},
        {"registers": 2, "pooling": "mean_patches"},
    ),
    "mean of patches with registers": ({"reg_tokens": 2, "global_pool": "avg"}, {"pooling": "mean_patches"}),
    "normed queries and keys": ({"qk_norm": True}, {"qk_norm": True}),
    "a LayerNorm after the patch projection": ({"embed_norm_layer": "layernorm"}, {"patch_norm": True}),
    "CLIP: LayerNorm before the blocks": ({"pre_norm": True}, {"embed_norm": True, "patch_bias": False}),
}


@pytest.mark.parametrize("name", TIMM)
def test_timm(tmp_path, name):
    changes, parts = TIMM[name]
    library = timm_vit(**changes)
    imported = import_weights(saved(tmp_path, library.state_dict()), heads=3)
    assert {key: getattr(imported.config, key) for key in parts} == parts
    assert difference(imported, library) < 1e-5
    check_against_library(imported).raise_if_failed()


@pytest.mark.parametrize("packed", [True, False])
def test_timms_gated_mlps(tmp_path, packed):
    layers = pytest.importorskip("timm.layers")
    library = timm_vit(mlp_layer=layers.SwiGLUPacked if packed else layers.SwiGLU, act_layer=torch.nn.SiLU)
    imported = import_weights(saved(tmp_path, library.state_dict()), heads=3)
    assert imported.config.gated_mlp
    assert imported.config.mlp == (24, 24) if packed else (48, 48)
    assert stated_facts(imported)["activation"] == ("silu", "usual")
    assert difference(imported, library) < 1e-5
    check_against_library(imported).raise_if_failed()


@pytest.mark.parametrize("no_embed_class", [False, True])
def test_distilled_deit_of_timm(tmp_path, no_embed_class):
    module = pytest.importorskip("timm.models.deit")
    sizes = {"img_size": 8, "patch_size": 2, "num_classes": 5, "embed_dim": 24, "depth": 2, "num_heads": 3}
    library = lively(module.VisionTransformerDistilled(**sizes))
    imported = import_weights(saved(tmp_path, library.state_dict()), heads=3)
    assert imported.config.distillation == "head"
    assert difference(imported, library) < 1e-5
    check_against_library(imported).raise_if_failed()


def test_simple_vit_with_registers_of_vit_pytorch(tmp_path):
    """The library puts them behind the patches; without positions their place makes no difference."""
    module = pytest.importorskip("vit_pytorch.simple_vit_with_register_tokens")
    sizes = {"image_size": 8, "patch_size": 2, "num_classes": 5, "dim": 24, "depth": 2, "heads": 3, "mlp_dim": 40}
    library = lively(module.SimpleViT(**sizes, dim_head=8, num_register_tokens=3))
    imported = import_weights(saved(tmp_path, library.state_dict()), heads=3, image=8)
    assert imported.config.registers == 3
    assert difference(imported, library) < 1e-5
    check_against_library(imported).raise_if_failed()


SIZES: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 8}
SIZES |= {"patch_size": 2}
LABELS = {"num_labels": 5}


def of_tower(config_class, library_class):
    config = config_class(vision_config={**SIZES, "intermediate_size": 40}, text_config={"hidden_size": 24})
    config.num_labels = 5
    return library_class(config)


def huggingface(name):
    library = pytest.importorskip("transformers")
    vit = {**SIZES, **LABELS, "intermediate_size": 40}
    dino = {**SIZES, **LABELS, "mlp_ratio": 2}
    makers: dict[str, Any] = {
        "deit": lambda: library.DeiTForImageClassification(library.DeiTConfig(**vit)),
        "deit with a teacher": lambda: library.DeiTForImageClassificationWithTeacher(library.DeiTConfig(**vit)),
        "dinov2": lambda: library.Dinov2ForImageClassification(library.Dinov2Config(**dino)),
        "dinov2 with SwiGLU": lambda: library.Dinov2ForImageClassification(
            library.Dinov2Config(**dino, use_swiglu_ffn=True)
        ),
        "dinov2 with registers": lambda: library.Dinov2WithRegistersForImageClassification(
            library.Dinov2WithRegistersConfig(**dino, num_register_tokens=3)
        ),
        "clip": lambda: of_tower(library.CLIPConfig, library.CLIPForImageClassification),
        "siglip": lambda: of_tower(library.SiglipConfig, library.SiglipForImageClassification),
    }
    return lively(makers[name]())


HUGGINGFACE: dict[str, dict[str, Any]] = {
    "deit": {"distillation": "token", "pooling": "cls"},
    "deit with a teacher": {"distillation": "head"},
    "dinov2": {"layer_scale": True, "pooling": "cls_and_mean"},
    "dinov2 with SwiGLU": {"gated_mlp": True, "activation": "silu"},
    "dinov2 with registers": {"registers": 3, "position_on": "patches"},
    "clip": {"embed_norm": True, "patch_bias": False, "activation": "quick_gelu", "final_norm": "none"},
    "siglip": {"activation": "gelu_tanh", "cls_token": False, "pooling": "mean"},
}


@pytest.mark.parametrize("name", HUGGINGFACE)
def test_huggingface_folder(tmp_path, name):
    library = huggingface(name)
    library.save_pretrained(tmp_path)
    imported = import_weights(tmp_path)
    parts = HUGGINGFACE[name]
    assert {key: getattr(imported.config, key) for key in parts} == parts
    assert difference(imported, library) < 1e-5
    assert {source for key, (_, source) in stated_facts(imported).items() if key in ("activation", "heads", "eps")} == {
        "config.json"
    }
    check_against_library(imported).raise_if_failed()


@pytest.mark.parametrize("name", HUGGINGFACE)
def test_huggingface_state_dict_alone(tmp_path, name):
    library = huggingface(name)
    imported = import_weights(saved(tmp_path, library.state_dict()), heads=3)
    assert difference(imported, library) < 1e-5
    with pytest.raises(UsageError, match=r"config\.json beside the weights"):
        check_against_library(imported)


SMALLER = {"img_size": 28, "embed_dim": 24, "depth": 2, "num_heads": 3}


@pytest.mark.parametrize(
    ("architecture", "parts"),
    [
        ("deit3_small_patch16_224", {"layer_scale": True, "position_on": "patches"}),
        ("deit_tiny_distilled_patch16_224", {"distillation": "head"}),
        ("vit_small_patch14_reg4_dinov2", {"layer_scale": True, "registers": 4}),
        ("vit_giant_patch14_dinov2", {"gated_mlp": True, "activation": "silu"}),
        ("vit_base_patch16_clip_quickgelu_224", {"embed_norm": True, "activation": "quick_gelu", "norm_eps": 1e-5}),
        ("vit_base_patch16_siglip_gap_224", {"cls_token": False, "pooling": "mean", "final_norm": "tokens"}),
        ("vit_medium_patch16_reg4_gap_256", {"registers": 4, "pooling": "mean_patches"}),
    ],
)
def test_timms_architectures_by_their_config(tmp_path, architecture, parts):
    timm = pytest.importorskip("timm")
    arguments = SMALLER | {"img_size": 28 if "patch14" in architecture else 32}
    library = lively(timm.create_model(architecture, num_classes=5, **arguments))
    description = {"architecture": architecture, "num_classes": 5, "model_args": arguments}
    (tmp_path / "config.json").write_text(json.dumps(description))
    imported = import_weights(saved(tmp_path, library.state_dict()))
    assert {key: getattr(imported.config, key) for key in parts} == parts
    assert difference(imported, library, torch.randn(3, 3, *(arguments["img_size"],) * 2)) < 1e-5
    check_against_library(imported).raise_if_failed()


def test_positions_that_can_be_of_all_tokens_or_of_patches_alone_are_asked_for(tmp_path):
    """25 rows: 16 patches with CLS and 8 registers, or 25 patches."""
    library = timm_vit(reg_tokens=8)
    path = saved(tmp_path, library.state_dict())
    with pytest.raises(UsageError, match="image=8 or image=10"):
        import_weights(path, heads=3)
    assert difference(import_weights(path, heads=3, image=8), library) < 1e-5
    larger = timm_vit(reg_tokens=8, no_embed_class=True, img_size=10)
    imported = import_weights(saved(tmp_path, larger.state_dict()), heads=3, image=10)
    assert difference(imported, larger, torch.randn(3, 3, 10, 10)) < 1e-5
