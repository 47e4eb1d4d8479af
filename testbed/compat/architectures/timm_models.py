"""Models of timm whose blocks are those of the plain Vision Transformer, or nearly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from testbed.compat.architectures.entry import CLASSES, Architecture
from testbed.compat.architectures.imports import imported

if TYPE_CHECKING:
    from torch import nn

DEPTH, SIDE = 2, 32
_SMALL: Mapping[str, Any] = {"img_size": SIDE, "patch_size": 8, "embed_dim": 32, "depth": DEPTH, "num_heads": 2}


def created(name: str, **sizes: Any) -> nn.Module:
    """A model of timm's registry, without trained weights, in other sizes."""
    model: nn.Module = imported("timm").create_model(name, pretrained=False, num_classes=CLASSES, **sizes)
    return model


def _plain(model: str, **changes: Any) -> Callable[[], nn.Module]:
    return partial(created, model, **{**_SMALL, **changes})


def _vit(name: str, family: str, model: str, **changes: Any) -> Architecture:
    return Architecture(f"timm/{name}", family, "timm", _plain(model, **changes), DEPTH)


PLAIN = (
    _vit("vit", "ViT", "vit_tiny_patch16_224"),
    _vit("vit-gap", "ViT, average pool", "vit_base_patch16_rpn_224"),
    _vit("vit-registers", "ViT, registers", "vit_betwixt_patch16_reg4_gap_256"),
    _vit("vit-layerscale", "ViT, layer scale", "vit_tiny_patch16_224", init_values=0.5),
    _vit("vit-qk-norm", "ViT, qk-norm", "vit_tiny_patch16_224", qk_norm=True),
    _vit("vit-no-qkv-bias", "ViT, no qkv bias", "vit_tiny_patch16_224", qkv_bias=False),
    _vit("vit-relpos", "ViT, relative position bias", "vit_relpos_small_patch16_224"),
    _vit("vit-rope", "ViT, rotary", "vit_small_patch16_rope_224"),
    _vit("deit", "DeiT", "deit_tiny_patch16_224"),
    _vit("deit-distilled", "DeiT, distilled", "deit_tiny_distilled_patch16_224"),
    _vit("deit3", "DeiT III", "deit3_small_patch16_224"),
    _vit("beit", "BEiT", "beit_base_patch16_224"),
    _vit("dinov2-registers", "DINOv2", "vit_small_patch14_reg4_dinov2"),
    _vit("dinov3", "DINOv3", "vit_small_patch16_dinov3"),
    _vit("clip", "CLIP", "vit_base_patch32_clip_224"),
)
