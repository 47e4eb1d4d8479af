"""Names and shapes -> an architecture; what shapes do not tell is settled by the ledger, never in silence."""

from __future__ import annotations

from math import isqrt, prod

from testbed.core.errors import TestbedError, UsageError
from testbed.models.config import ACTIVATION_NAMES, Pooling, PositionOn, ViTConfig
from testbed.models.importers.facts.ledger import INSTEAD, Ledger
from testbed.models.importers.layout import KeyNames, Layout, Traits
from testbed.models.keys import KeyShapes

_CHANNELS_NAMED = 16  # of the readings of a patch, those of up to as many channels are named


def inferred_config(layout: Layout, traits: Traits, names: KeyNames, shapes: KeyShapes, ledger: Ledger) -> ViTConfig:
    """The architecture; a row of ``ledger`` for each of its parts.

    ``shapes`` are the file's, and hold every one of ``names``. Raises UsageError when something must be, or is wrongly,
    stated; TestbedError when the shapes belong to no model of ours.
    """
    ours = {name: shapes[theirs[0]] for name, theirs in names.items()}
    if single := next((theirs[0] for name, theirs in names.items() if not ours[name]), None):
        raise TestbedError(f"{single} is a single number where a vector or matrix is needed")
    channels, patch = _patch(ours["patch_embed.proj.weight"], ledger)
    registers = ours["registers"][-2] if traits.registers else 0
    position_on: PositionOn = "tokens"
    if layout.fixed_positions:
        image = _stated_image(layout, patch, ledger)
    else:
        image, position_on = _image(ours["pos_embed"], _tokens_before(traits, registers), patch, ledger)
    width, classes = ours["patch_embed.proj.weight"][0], ours["head.weight"][0]
    ledger.add_from_file("width", width)
    ledger.add_from_file("depth", traits.depth)
    ledger.add_from_file("classes", classes)
    inner = [prod(ours[f"block.{n}.attn.qkv.weight"][:1]) * len(layout.qkv) // 3 for n in range(traits.depth)]
    head_width = _head_width(layout, width, inner, ledger)
    mlp = tuple(ours[f"block.{n}.mlp.fc1.weight"][0] for n in range(traits.depth))
    ledger.add_from_file("mlp", mlp[0] if len(set(mlp)) == 1 else list(mlp))
    *others, last = (name for name in ACTIVATION_NAMES if name != layout.activation)
    same = f"{', '.join(others)} and {last} have the same names"
    activation = ledger.chosen("activation", layout.activation, "", same)
    norm_order = ledger.chosen(
        "norm_order", "pre", "", "x + f(norm(x)); residual_post, x + norm(f(x)), has the same names"
    )
    norm_eps = ledger.chosen("eps", layout.norm_eps, "", f"{layout.name.removesuffix('-old')}'s own")
    ledger.add_from_file("qkv_bias", traits.qkv_bias)
    ledger.add_from_file("cls_token", traits.cls_token)
    _add_parts(layout, traits, registers, ledger)
    if layout.fixed_positions:
        ledger.implied(
            "position", "sincos_2d", "the table is in no file; the 1-D and 3-D SimpleViT have the same names"
        )
    else:
        ledger.add_from_file(
            "position", "1d", f"learned, one for each {position_on.removesuffix('es').removesuffix('s')}"
        )
    ledger.add_from_file(
        "final_norm", traits.final_norm, "where the last LayerNorm sits: all tokens, or the pooled one"
    )
    return ViTConfig(
        image=image,
        patch=patch,
        channels=channels,
        width=width,
        heads=tuple(i // head_width for i in inner),
        mlp=mlp,
        classes=classes,
        head_width=head_width,
        norm_order=norm_order,
        pooling=_pooling(layout, traits, ledger),
        cls_token=traits.cls_token,
        patchify=layout.patchify,
        patch_norm=traits.patch_norm,
        qkv_bias=traits.qkv_bias,
        final_norm=traits.final_norm,
        norm_eps=norm_eps,
        activation=activation,
        position="sincos_2d" if layout.fixed_positions else "1d",
        proj_bias=layout.proj_bias,
        registers=registers,
        distillation=traits.distillation,
        position_on=position_on,
        patch_bias=traits.patch_bias,
        embed_norm=traits.embed_norm,
        layer_scale=traits.layer_scale,
        qk_norm=traits.qk_norm,
        gated_mlp=bool(layout.gate),
    )


def _add_parts(layout: Layout, traits: Traits, registers: int, ledger: Ledger) -> None:
    """A row for each part that not every ViT has."""
    parts = {
        "registers": (registers, "with no positions, as CLS" if layout.registers_last else ""),
        "distillation": ("" if traits.distillation == "none" else traits.distillation, "two heads' mean"),
        "embed_norm": (traits.embed_norm, "a LayerNorm before the blocks"),
        "layer_scale": (traits.layer_scale, ""),
        "qk_norm": (traits.qk_norm, "a LayerNorm on each head's queries and keys"),
        "gated_mlp": (bool(layout.gate), ""),
    }
    for key, (value, note) in parts.items():
        if value:
            ledger.add_from_file(key, value, note)


def _patch(shape: tuple[int, ...], ledger: Ledger) -> tuple[int, int]:
    """Channels and patch size, of a convolution (D, C, p, p) or of a linear layer (D, p p C)."""
    if len(shape) == 4:
        if shape[2] != shape[3]:
            raise TestbedError(f"patches of {shape[2]} x {shape[3]} pixels are not square: not supported; {INSTEAD}")
        ledger.add_from_file("channels", shape[1])
        ledger.add_from_file("patch", shape[2])
        return shape[1], shape[2]
    values = prod(shape[1:])
    said, said_patch = ledger.value("channels"), ledger.value("patch")
    readings = [
        (channels, isqrt(values // channels))
        for channels in range(1, values + 1)
        if channels * isqrt(values // channels) ** 2 == values and said in (None, channels)
    ]
    readings = [(channels, side) for channels, side in readings if said_patch in (None, side)]
    likely = [
        (channels, side)
        for channels, side in readings
        if said is not None or channels in (1, 3) or (side > 1 and channels <= _CHANNELS_NAMED)
    ]
    if not likely:
        raise UsageError(f"a patch of {values} values is no square of {said or '3 or 1'} channels; state the channels")
    usual = next((reading for reading in likely if reading[0] == 3), likely[0])
    if usual[0] != 3 and len(likely) > 1:
        ways = " or ".join(f"{channels} of {side} x {side}" for channels, side in likely)
        raise UsageError(f"a patch of {values} values is {ways} (channels of pixels); state it: --set channels=N")
    channels, side = usual
    ledger.implied("channels", channels, f"a patch of {values} values tells no channels")
    ledger.implied("patch", side, f"square: {values} values tell no shape")
    return channels, side


def _tokens_before(traits: Traits, registers: int) -> int:
    return int(traits.cls_token) + int(traits.distillation != "none") + registers


def _image(positions: tuple[int, ...], before: int, patch: int, ledger: Ledger) -> tuple[int, PositionOn]:
    """Pixels of the image's side, and what has a position. before: tokens before the patches."""
    count = prod(positions[:-1])
    rows: dict[PositionOn, int] = {"tokens": count - before, "patches": count}
    sides = {on: isqrt(rest) for on, rest in rows.items() if rest > 0 and isqrt(rest) ** 2 == rest}
    said = ledger.value("image")
    fitting = [on for on, side in sides.items() if said in (None, side * patch)] or list(sides)
    if not fitting:
        tokens = {0: "", 1: "CLS and "}.get(before, f"{before} tokens and ")
        raise TestbedError(
            f"{count} positions are not {tokens}a square of patches: images that are not square are not supported; {INSTEAD}"
        )
    on = fitting[0]
    if before and len(fitting) > 1:
        ways = " or ".join(f"image={sides[each] * patch}" for each in fitting)
        raise UsageError(
            f"{count} positions are of all tokens or of patches alone; state the image's side: --set {ways}"
        )
    without = "; the tokens before them have no position" if before and on == "patches" else ""
    ledger.implied("image", sides[on] * patch, f"square: {sides[on] ** 2} patches tell no shape{without}")
    return sides[on] * patch, on if before else "tokens"


def _stated_image(layout: Layout, patch: int, ledger: Ledger) -> int:
    image = int(
        ledger.chosen(
            "image", None, f"{layout.name} weights do not tell the size of the images; state it: --set image=N"
        )
    )
    if image % patch or not image:
        raise UsageError(f"image = {image} was stated, which is no multiple of the patches' {patch} pixels")
    return image


def _head_width(layout: Layout, width: int, inner: list[int], ledger: Ledger) -> int:
    if not inner:
        return 1
    said = ledger.value("heads")
    heads = layout.usual_heads(width, inner[0]) if said is None else said
    if heads is None:
        raise UsageError(
            f"{layout.name} weights of width {width} do not tell the number of attention heads (q is {inner[0]} wide); "
            "state it with heads=N (--heads N)"
        )
    if heads < 1 or inner[0] % heads:
        raise UsageError(f"q is {inner[0]} wide, which {heads} heads cannot share; state another number of heads")
    ledger.chosen("heads", heads, "", f"of width {inner[0] // heads}; any number that divides {inner[0]} fits")
    return inner[0] // heads


def _pooling(layout: Layout, traits: Traits, ledger: Ledger) -> Pooling:
    usual: Pooling = "cls"
    if layout.pooling is not None:
        usual = layout.pooling
    elif not traits.cls_token:
        usual = "mean_patches" if traits.registers else "mean"
    elif layout.name == "timm" and traits.final_norm == "pooled":  # timm has an fc_norm where it averages the patches
        usual = "mean_patches"
    pooling: Pooling = ledger.chosen("pooling", usual, "", "what the head reads; other poolings have the same names")
    return "mean" if pooling == "mean_patches" and not (traits.cls_token or traits.registers) else pooling
