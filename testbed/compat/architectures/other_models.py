"""Models of torchvision and of vit-pytorch, by their classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from testbed.compat.architectures.entry import CLASSES, SIDE_BY_SIDE, Architecture, ModelLibrary
from testbed.compat.architectures.imports import imported

if TYPE_CHECKING:
    from torch import nn

_SMALL: Mapping[str, Any] = {
    "image_size": 32, "patch_size": 8, "dim": 32, "depth": 2, "heads": 2, "mlp_dim": 64, "dim_head": 16,
}  # fmt: skip
_SWIN: Mapping[str, Any] = {
    "patch_size": [4, 4], "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 2], "window_size": [4, 4],
}  # fmt: skip


def of_class(module: str, name: str, layers: Mapping[str, str], **sizes: Any) -> nn.Module:
    """A model of a class. layers: argument -> name of a class of the same module."""
    library = imported(module)
    classes = {argument: getattr(library, kind) for argument, kind in layers.items()}
    model: nn.Module = getattr(library, name)(num_classes=CLASSES, **classes, **sizes)
    return model


def _entry(
    library: ModelLibrary,
    name: str,
    family: str,
    kind: str,
    blocks: int,
    image: int = 32,
    absent: Mapping[str, str] | None = None,
    layers: Mapping[str, str] | None = None,
    **sizes: Any,
) -> Architecture:
    module, _, model = kind.rpartition(".")
    build = partial(of_class, module, model, layers or {}, **sizes)
    return Architecture(f"{library}/{name}", family, library, build, blocks, image, absent=absent or {})


_vision = partial(_entry, "torchvision")
_pytorch = partial(_entry, "vit-pytorch")
_SWIN_MODULE = "torchvision.models.swin_transformer"

TORCHVISION = (
    _vision(
        *("vit", "ViT", "torchvision.models.vision_transformer.VisionTransformer", 2),
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64,
    ),
    _vision("swin", "Swin", f"{_SWIN_MODULE}.SwinTransformer", 4, **_SWIN),
    _vision(
        *("swinv2", "SwinV2", f"{_SWIN_MODULE}.SwinTransformer", 4),
        layers={"block": "SwinTransformerBlockV2", "downsample_layer": "PatchMergingV2"}, **_SWIN,
    ),
    _vision(
        *("maxvit", "MaxViT", "torchvision.models.maxvit.MaxVit", 4, 64),
        input_size=(64, 64), stem_channels=16, partition_size=2, block_channels=[32, 32], block_layers=[1, 1], head_dim=16,
        stochastic_depth_prob=0.0,
    ),
)  # fmt: skip

VIT_PYTORCH = (
    _pytorch("vit", "ViT", "vit_pytorch.ViT", 2, **_SMALL),
    _pytorch("vit-mean", "ViT, average pool", "vit_pytorch.ViT", 2, pool="mean", **_SMALL),
    _pytorch("simple-vit", "SimpleViT", "vit_pytorch.simple_vit.SimpleViT", 2, **_SMALL),
    _pytorch(
        "simple-vit-registers", "SimpleViT", "vit_pytorch.simple_vit_with_register_tokens.SimpleViT", 2, **_SMALL
    ),
    _pytorch("simple-vit-flash", "SimpleViT", "vit_pytorch.simple_flash_attn_vit.SimpleViT", 2, **_SMALL),
    _pytorch("deepvit", "DeepViT", "vit_pytorch.deepvit.DeepViT", 2, **_SMALL),
    _pytorch("cait", "CaiT", "vit_pytorch.cait.CaiT", 3, cls_depth=1, **_SMALL),
    replace(
        _pytorch("parallel", "ViT, parallel blocks", "vit_pytorch.parallel_vit.ViT", 2, num_parallel_branches=2, **_SMALL),
        named=SIDE_BY_SIDE,
    ),
    _pytorch(
        *("cct", "CCT", "vit_pytorch.cct.CCT", 2),
        img_size=32, embedding_dim=32, n_conv_layers=1, kernel_size=7, stride=2, padding=3, pooling_kernel_size=3,
        pooling_stride=2, pooling_padding=1, num_layers=2, num_heads=2, mlp_ratio=2.0, positional_embedding="learnable",
    ),
    _pytorch("small-data-vit", "ViT, learned temperature", "vit_pytorch.vit_for_small_dataset.ViT", 2, **_SMALL),
    _pytorch(
        *("pit", "PiT", "vit_pytorch.pit.PiT", 2),
        image_size=32, patch_size=8, dim=32, depth=(1, 1), heads=2, mlp_dim=64, dim_head=16,
    ),
)  # fmt: skip
