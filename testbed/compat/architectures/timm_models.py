"""Models of timm whose blocks are those of the plain Vision Transformer, or nearly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from testbed.compat.architectures.entry import CLASSES, GATED, ONE_JOINT, SIDE_BY_SIDE, Architecture
from testbed.compat.architectures.imports import imported

if TYPE_CHECKING:
    from torch import nn

DEPTH, SIDE = 2, 32
_SMALL: Mapping[str, Any] = {"img_size": SIDE, "patch_size": 8, "embed_dim": 32, "depth": DEPTH, "num_heads": 2}


def created(name: str, **sizes: Any) -> nn.Module:
    """A model of timm's registry, without trained weights, in other sizes."""
    model: nn.Module = imported("timm").create_model(name, pretrained=False, num_classes=CLASSES, **sizes)
    return model


def of_layers(name: str, layers: Mapping[str, tuple[str, str]], **sizes: Any) -> nn.Module:
    """A model with layers of other classes. layers: argument -> module and class."""
    classes = {argument: getattr(imported(module), kind) for argument, (module, kind) in layers.items()}
    return created(name, **classes, **sizes)


def _vit(name: str, family: str, model: str, **changes: Any) -> Architecture:
    build = partial(created, model, **{**_SMALL, **changes})
    return Architecture(f"timm/{name}", family, "timm", build, DEPTH)


def _other(name: str, family: str, **layers: str) -> Architecture:
    """A ViT of which some layers are of other classes. layers: argument -> "module:class"."""
    kinds = {argument: (kind.partition(":")[0], kind.partition(":")[2]) for argument, kind in layers.items()}
    build = partial(of_layers, "vit_tiny_patch16_224", kinds, **_SMALL)
    return Architecture(f"timm/{name}", family, "timm", build, DEPTH)


_VIT = "timm.models.vision_transformer"
_SHARED_NORM = {"norm2": "attention and MLP share a norm"}

PLAIN = (
    _vit("vit", "ViT", "vit_tiny_patch16_224"),
    _vit("vit-gap", "ViT, average pool", "vit_base_patch16_rpn_224"),
    _vit("vit-registers", "ViT, registers", "vit_betwixt_patch16_reg4_gap_256"),
    _vit("vit-layerscale", "ViT, layer scale", "vit_tiny_patch16_224", init_values=0.5),
    _vit("vit-qk-norm", "ViT, qk-norm", "vit_tiny_patch16_224", qk_norm=True),
    _vit("vit-no-qkv-bias", "ViT, no qkv bias", "vit_tiny_patch16_224", qkv_bias=False),
    replace(_other("vit-swiglu", "ViT, SwiGLU", mlp_layer="timm.layers:SwiGLU"), named=GATED),
    _other("vit-swiglu-packed", "ViT, SwiGLU", mlp_layer="timm.layers:SwiGLUPacked"),
    # without timm's own export mode the exporter stumbles over torch's fused attention with a bias
    _vit("vit-relpos", "ViT, relative position bias", "vit_relpos_small_patch16_224", exportable=True),
    _vit("vit-srelpos", "ViT, relative position bias", "vit_srelpos_small_patch16_224", exportable=True),
    _vit("vit-rope", "ViT, rotary", "vit_small_patch16_rope_224"),
    _vit("vit-rope-mixed", "ViT, rotary", "vit_small_patch16_rope_mixed_224"),
    _other("vit-post-norm", "ViT, norms after the branches", block_fn=f"{_VIT}:ResPostBlock"),
    _vit("vit-pre-norm", "ViT, norm before the blocks", "vit_tiny_patch16_224", pre_norm=True),
    replace(
        _other("vit-parallel-scaling", "ViT, parallel blocks", block_fn=f"{_VIT}:ParallelScalingBlock"),
        absent=_SHARED_NORM,
        named=ONE_JOINT,
    ),
    replace(_vit("vit-parallel-things", "ViT, parallel blocks", "vit_small_patch16_18x2_224"), named=SIDE_BY_SIDE),
    Architecture(
        "timm/vit-hybrid",
        "ViT hybrid",
        "timm",
        partial(created, "vit_tiny_r_s16_p8_224", img_size=64, embed_dim=32, depth=DEPTH, num_heads=2),
        DEPTH,
        image=64,
    ),
    _vit("deit", "DeiT", "deit_tiny_patch16_224"),
    _vit("deit-distilled", "DeiT, distilled", "deit_tiny_distilled_patch16_224"),
    _vit("deit3", "DeiT III", "deit3_small_patch16_224"),
    _vit("beit", "BEiT", "beit_base_patch16_224", exportable=True),
    _vit("beitv2", "BEiT", "beitv2_base_patch16_224", exportable=True),
    _vit("eva02", "EVA-02", "eva02_tiny_patch14_224"),
    _vit("dinov2", "DINOv2", "vit_small_patch14_dinov2"),
    _vit("dinov2-registers", "DINOv2", "vit_small_patch14_reg4_dinov2"),
    _vit("dinov2-giant", "DINOv2", "vit_giant_patch14_dinov2"),
    _vit("dinov3", "DINOv3", "vit_small_patch16_dinov3"),
    _vit("clip", "CLIP", "vit_base_patch32_clip_224"),
    _vit("siglip", "SigLIP", "vit_base_patch16_siglip_224"),
    _vit("flexivit", "FlexiViT", "flexivit_small"),
)
