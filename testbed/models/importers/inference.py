"""Names and shapes -> an architecture; what shapes do not tell is asked for, never guessed in silence."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt, prod

from testbed.core.errors import TestbedError, UsageError
from testbed.models.config import Pooling, ViTConfig
from testbed.models.importers.layout import Layout, Names, Traits
from testbed.models.keys import Shapes


@dataclass(frozen=True)
class Asked:
    """What the user states. None leaves it to the shapes, or to the layout's default where shapes do not tell."""

    heads: int | None = None
    image: int | None = None
    channels: int | None = None
    classes: int | None = None
    pooling: Pooling | None = None
    norm_eps: float | None = None


def inferred_config(
    layout: Layout, traits: Traits, names: Names, shapes: Shapes, asked: Asked
) -> tuple[ViTConfig, list[str]]:
    """The architecture, and a line for each thing that was assumed because shapes do not tell it.

    ``shapes`` are the file's, and hold every one of ``names``. Raises UsageError when something must be, or is wrongly,
    stated; TestbedError when the shapes belong to no model of ours.
    """
    assumed: list[str] = []
    ours = {name: shapes[theirs[0]] for name, theirs in names.items()}
    width, classes = ours["patch_embed.proj.weight"][0], ours["head.weight"][0]
    channels, patch = _patch(ours["patch_embed.proj.weight"], asked.channels)
    image = _image(ours["pos_embed"], traits.cls_token, patch, asked.image)
    if asked.classes is not None and asked.classes != classes:
        raise UsageError(f"the weights are for {classes} classes, not {asked.classes}: another data set's weights?")
    inner = [prod(ours[f"block.{n}.attn.qkv.weight"][:1]) * len(layout.qkv) // 3 for n in range(traits.depth)]
    head_width = _head_width(layout, width, inner, asked.heads, assumed)
    config = ViTConfig(
        image=image,
        patch=patch,
        channels=channels,
        width=width,
        heads=tuple(i // head_width for i in inner),
        mlp=tuple(ours[f"block.{n}.mlp.fc1.weight"][0] for n in range(traits.depth)),
        classes=classes,
        head_width=head_width,
        pooling=_pooling(layout, traits, asked.pooling, assumed),
        cls_token=traits.cls_token,
        patchify=layout.patchify,
        patch_norm=traits.patch_norm,
        qkv_bias=traits.qkv_bias,
        final_norm=traits.final_norm,
        norm_eps=asked.norm_eps if asked.norm_eps is not None else layout.norm_eps,
    )
    if asked.norm_eps is None:
        assumed.append(f"LayerNorm epsilon {layout.norm_eps}")
    return config, assumed


def _patch(shape: tuple[int, ...], channels: int | None) -> tuple[int, int]:
    """Channels and patch size, of a convolution (D, C, p, p) or of a linear layer (D, p p C)."""
    if len(shape) == 4:
        if shape[2] != shape[3]:
            raise TestbedError(f"patches of {shape[2]} x {shape[3]} pixels are not square, which is not supported")
        if channels not in (None, shape[1]):
            raise UsageError(f"the weights are for {shape[1]} channels, not {channels}")
        return shape[1], shape[2]
    values = prod(shape[1:])
    for candidate in (3, 1) if channels is None else (channels,):  # 3 is no square: at most one of these fits
        side = isqrt(values // candidate)
        if side and candidate * side**2 == values:
            return candidate, side
    raise UsageError(f"a patch of {values} values is no square of {channels or '3 or 1'} channels; state the channels")


def _image(positions: tuple[int, ...], cls_token: bool, patch: int, image: int | None) -> int:
    patches = prod(positions[:-1]) - cls_token
    side = isqrt(max(patches, 0))
    if side**2 != patches or not side:
        raise TestbedError(
            f"{prod(positions[:-1])} positions are not {'CLS and ' * cls_token}a square of patches: "
            "images that are not square, or a CLS token without position, are not supported"
        )
    if image not in (None, side * patch):
        raise UsageError(f"the weights are for images of {side * patch} pixels a side, not {image}; resize the images")
    return side * patch


def _head_width(layout: Layout, width: int, inner: list[int], asked: int | None, assumed: list[str]) -> int:
    if not inner:
        return 1
    heads = asked if asked is not None else layout.usual_heads(width, inner[0])
    if heads is None:
        raise UsageError(
            f"{layout.name} weights of width {width} do not tell the number of attention heads (q is {inner[0]} wide); "
            "state it with heads=N (--heads N)"
        )
    if heads < 1 or inner[0] % heads:
        raise UsageError(f"q is {inner[0]} wide, which {heads} heads cannot share; state another number of heads")
    if asked is None:
        assumed.append(f"{heads} heads of width {inner[0] // heads}")
    return inner[0] // heads


def _pooling(layout: Layout, traits: Traits, asked: Pooling | None, assumed: list[str]) -> Pooling:
    if asked is not None:
        return asked
    pooling: Pooling = "cls"
    if not traits.cls_token:
        pooling = "mean"
    elif layout.name == "timm" and traits.final_norm == "pooled":  # timm has an fc_norm where it averages the patches
        pooling = "mean_patches"
    assumed.append(f"pooling {pooling!r}")
    return pooling
