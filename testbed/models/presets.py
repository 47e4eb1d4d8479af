"""Named architectures: the studies' reference models, and the digits model of the ready-made campaign."""

from __future__ import annotations

from typing import Any

from testbed.core.errors import UsageError
from testbed.core.words.nearest import unknown
from testbed.models.config import MOST_BLOCKS, ViTConfig, uniform

_CIFAR10: dict[str, Any] = {
    "image": 32,
    "patch": 4,
    "channels": 3,
    "classes": 10,
    "head_width": 32,
    "init": "trunc",
}
_IMAGENET_SIZED: dict[str, Any] = {  # the older vit-pytorch model at 224 px, with CIFAR-10's classes
    "image": 224,
    "patch": 16,
    "channels": 3,
    "classes": 10,
    "head_width": 64,
    "dropout": 0.1,
    "embed_dropout": 0.1,
}

PRESETS: dict[str, ViTConfig] = {
    "digits": uniform(3, 2, 64, image=8, patch=2, channels=1, width=32, classes=10, head_width=16, qkv_bias=True),
    "fashion-mnist": uniform(
        7,
        8,
        128,
        image=28,
        patch=7,
        channels=1,
        width=64,
        classes=10,
        head_width=8,
        norm_order="post",
        patchify="conv",
        qkv_bias=True,
        final_norm="none",
        dropout=0.2,
        init="zero",
    ),
    "cifar10": uniform(6, 8, 4 * 256, width=256, **_CIFAR10),
    "cifar10-1": uniform(8, 12, 4 * 384, width=384, **_CIFAR10),
    "cifar10-2": uniform(10, 16, 4 * 512, width=512, **_CIFAR10),
    "cifar10-3": uniform(12, 8, 3 * 256, width=256, **_CIFAR10),
    "tiny-imagenet": uniform(
        6, 6, 1536, image=64, patch=8, channels=3, width=576, classes=200, head_width=96, qkv_bias=True, init="trunc"
    ),
    "vit-tiny-16-224": uniform(12, 3, 768, width=192, **_IMAGENET_SIZED),
    "vit-small-16-224": uniform(12, 6, 1536, width=384, **_IMAGENET_SIZED),
    "vit-base-16-224": uniform(12, 12, 3072, width=768, **_IMAGENET_SIZED),
}


DEPTH = "depth"
"""The one setting of a preset that is no field of ``ViTConfig``: so many blocks, all like the preset's first."""


def preset(name: str, **overrides: Any) -> ViTConfig:
    """The named architecture, with fields of ``ViTConfig`` replaced by ``overrides``; a single number for ``heads`` or
    ``mlp`` is every block's, and ``depth`` is how many blocks there are.

    Raises UsageError for an unknown preset (naming the known ones) or field, and for values that do not fit together.
    """
    if name not in PRESETS:
        raise UsageError(unknown("model preset", name, PRESETS))
    base = PRESETS[name]
    depth = overrides.pop(DEPTH, base.depth)
    if isinstance(depth, bool) or not isinstance(depth, int) or not 0 <= depth <= MOST_BLOCKS:
        raise UsageError(f"model: depth must be a whole number of blocks, 0 to {MOST_BLOCKS}, not {depth!r}")
    alike = {"heads": base.heads[0], "mlp": base.mlp[0]} if depth != base.depth else {}
    each = {key: overrides.get(key, alike.get(key)) for key in ("heads", "mlp")}
    blocks = {key: (value,) * depth for key, value in each.items() if isinstance(value, int)}
    return ViTConfig.from_json(base.to_json() | overrides | blocks)
