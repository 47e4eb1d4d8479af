"""Classifiers of transformers, small, by their own configuration objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from testbed.compat.architectures.entry import CLASSES, GATED, Architecture
from testbed.compat.architectures.imports import imported

if TYPE_CHECKING:
    from torch import nn

DEPTH = 2
_PLAIN: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
_TWO_STAGES: Mapping[str, Any] = {"image_size": 32, "depths": [2, 2], "num_heads": [2, 2], "embed_dim": 32}
_EAGER: Mapping[str, Any] = {
    "attn_implementation": "eager"
}  # torch's exporter stumbles over its fused attention with a bias
_TEXT = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16, "vocab_size": 50,
}  # fmt: skip


def configured(family: str, **sizes: Any) -> nn.Module:
    """A classifier by its family: "DeiT" is DeiTForImageClassification."""
    library = imported("transformers")
    config = getattr(library, f"{family}Config")(num_labels=CLASSES, **sizes)
    model: nn.Module = getattr(library, f"{family}ForImageClassification")(config)
    return model


def with_tower(family: str, **sizes: Any) -> nn.Module:
    """A classifier on the vision tower of a model of images and texts."""
    return configured(family, vision_config=sizes, text_config=_TEXT)


def _plain(name: str, family: str, config: str, **changes: Any) -> Architecture:
    build = partial(configured, config, **{**_PLAIN, **changes})
    return Architecture(f"transformers/{name}", family, "transformers", build, DEPTH)


def _tower(name: str, family: str, config: str) -> Architecture:
    build = partial(with_tower, config, **_PLAIN, intermediate_size=64)
    return Architecture(f"transformers/{name}", family, "transformers", build, DEPTH)


def _stages(
    name: str, family: str, config: str, blocks: int, image: int, absent: Mapping[str, str] | None = None, **sizes: Any
) -> Architecture:
    build = partial(configured, config, **sizes)
    return Architecture(f"transformers/{name}", family, "transformers", build, blocks, image, absent=absent or {})


TRANSFORMERS = (
    _plain("vit", "ViT", "ViT", intermediate_size=64),
    _plain("vit-msn", "ViT", "ViTMSN", intermediate_size=64),
    _plain("ijepa", "ViT, average pool", "IJepa", intermediate_size=64),
    _plain("deit", "DeiT", "DeiT", intermediate_size=64),
    _plain("beit", "BEiT", "Beit", intermediate_size=64, use_relative_position_bias=True, **_EAGER),
    _plain("data2vec", "BEiT", "Data2VecVision", intermediate_size=64, **_EAGER),
    _plain("dinov2", "DINOv2", "Dinov2"),
    replace(_plain("dinov2-swiglu", "DINOv2", "Dinov2", use_swiglu_ffn=True), named=GATED),
    _plain("dinov2-registers", "DINOv2", "Dinov2WithRegisters", num_register_tokens=2),
    _tower("clip", "CLIP", "CLIP"),
    _tower("siglip", "SigLIP", "Siglip"),
    _stages("swin", "Swin", "Swin", 4, 32, patch_size=4, window_size=4, **_TWO_STAGES, **_EAGER),
    _stages("swinv2", "SwinV2", "Swinv2", 4, 32, patch_size=4, window_size=4, **_TWO_STAGES, **_EAGER),
    _stages(
        *("pvtv2", "PVTv2", "PvtV2", 2, 32), hidden_sizes=[32, 32], depths=[1, 1], num_attention_heads=[1, 2],
        num_encoder_blocks=2, sr_ratios=[2, 1], patch_sizes=[7, 3], strides=[4, 2], mlp_ratios=[2, 2],
    ),
    _stages(
        # of smaller images the last blocks would have one token, which attends to itself whatever its query
        *("mobilevit", "MobileViT", "MobileViT", 9, 128), image_size=128, hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[16, 16, 16, 16, 16, 16, 32],
    ),
)  # fmt: skip
