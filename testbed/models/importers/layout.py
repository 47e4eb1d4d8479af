"""What a layout is: how a library names a Vision Transformer's parameters."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Literal

from testbed.models.config import Activation, Distillation, FinalNorm, Patchify, Pooling

# Our parameter -> the parameter of the file, or the three (q, k, v) that are stacked to make it.
KeyNames = dict[str, tuple[str, ...]]
PUBLISHED_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}  # by width: tiny, small, base, large, huge


@dataclass(frozen=True)
class Traits:
    """What the presence of names tells, before any shape is looked at."""

    depth: int
    cls_token: bool
    patch_norm: bool
    qkv_bias: bool
    final_norm: FinalNorm
    distillation: Distillation = "none"
    registers: bool = False
    embed_norm: bool = False
    patch_bias: bool = True
    layer_scale: bool = False
    qk_norm: bool = False


@dataclass(frozen=True)
class Layout:
    """The library's modules by our names for them; each has a weight and a bias. ``block`` is a block's prefix.

    ``normed_patch_embed`` holds the modules where LayerNorms surround the patch projection. ``final`` gives the final
    norm and the head for each place that norm can sit. A "{}" in a module stands where "weight" or "bias" goes.
    ``fixed_positions``: SimpleViT's table, which is in no file.

    Parts that some of the library's models have, named "" where none has: ``dist_token`` and ``dist_head`` (a module),
    ``registers``, ``embed_norm`` (a module), both branches' ``layer_scale`` and ``qk_norm`` (modules) of a block, and a
    gated MLP's ``gate``. ``patch_bias``: has the patch projection one, always, never, or only without ``embed_norm``?
    ``registers_last``: they are put between the tokens after the positions were added, and have none.
    ``activation`` and ``pooling``: what the library's models have unless they are told otherwise; ``unused``: starts of
    names that the classifier's file holds and its logits do not read.
    """

    name: str
    patch_embed: Mapping[str, str]
    cls_token: str
    pos_embed: str
    block: str
    norm1: str
    qkv: tuple[str, ...]
    proj: str
    norm2: str
    fc1: str
    fc2: str
    final: Mapping[FinalNorm, tuple[str, str]]
    patchify: Patchify
    norm_eps: float
    normed_patch_embed: Mapping[str, str] | None = None
    fixed_positions: bool = False
    proj_bias: bool = True
    dist_token: str = ""
    dist_head: str = ""
    registers: str = ""
    registers_last: bool = False
    embed_norm: str = ""
    patch_bias: Literal["always", "never", "unless normed"] = "always"
    layer_scale: tuple[str, str] | tuple[()] = ()
    qk_norm: tuple[str, str] | tuple[()] = ()
    gate: str = ""
    activation: Activation = "gelu"
    pooling: Pooling | None = None
    unused: tuple[str, ...] = ()
    model_type: str = ""

    def traits(self, keys: Collection[str], positions: int) -> Traits:
        """``positions``: rows of the position table, 0 if there is none."""
        prefix = re.compile(re.escape(self.block).replace(r"\{\}", r"(\d+)"))
        numbers = {int(match[1]) for key in keys if (match := prefix.match(key))}
        normed = self.normed_patch_embed or {}
        only_normed = {f"{m}.weight" for m in normed.values()} - {f"{m}.weight" for m in self.patch_embed.values()}
        final_norms = [where for where, (norm, _) in self.final.items() if f"{norm}.weight" in keys]
        blocks = [self.block.format(n) for n in numbers]
        has_embed_norm = bool(self.embed_norm) and f"{self.embed_norm}.weight" in keys
        has_dist_token = bool(self.dist_token) and self.dist_token in keys
        has_dist_head = bool(self.dist_head) and f"{self.dist_head}.weight" in keys
        return Traits(
            depth=1 + max(numbers, default=-1),
            cls_token=self.cls_token in keys
            or (not has_dist_token and not _square(positions) and _square(positions - 1)),
            patch_norm=bool(only_normed & set(keys)),
            qkv_bias=any(self.block.format(n) + _parameter(self.qkv[0], "bias") in keys for n in numbers),
            final_norm=final_norms[0] if final_norms else next(iter(self.final)),
            distillation="head" if has_dist_head else "token" if has_dist_token else "none",
            registers=bool(self.registers) and self.registers in keys,
            embed_norm=has_embed_norm,
            patch_bias=self.patch_bias == "always" or (self.patch_bias == "unless normed" and not has_embed_norm),
            layer_scale=any(block + name in keys for block in blocks for name in self.layer_scale),
            qk_norm=any(f"{block}{name}.weight" in keys for block in blocks for name in self.qk_norm),
        )

    def names(self, t: Traits) -> KeyNames:
        """Every parameter of a model with these traits."""
        names: KeyNames = {}

        def module(ours: str, *theirs: str, bias: bool = True) -> None:
            for kind in ("weight", "bias") if bias else ("weight",):
                names[f"{ours}.{kind}"] = tuple(_parameter(their, kind) for their in theirs)

        patch_embed = self.normed_patch_embed if t.patch_norm and self.normed_patch_embed else self.patch_embed
        for part, theirs in patch_embed.items():
            module(f"patch_embed.{part}", theirs, bias=part != "proj" or t.patch_bias)
        if t.cls_token:
            names["cls_token"] = (self.cls_token,)
        if t.distillation != "none":
            names["dist_token"] = (self.dist_token,)
        if t.registers:
            names["registers"] = (self.registers,)
        if t.embed_norm:
            module("embed_norm", self.embed_norm)
        if not self.fixed_positions:
            names["pos_embed"] = (self.pos_embed,)
        for n in range(t.depth):
            ours, block = f"block.{n}.", self.block.format(n)
            module(f"{ours}norm1", block + self.norm1)
            module(f"{ours}attn.qkv", *(block + part for part in self.qkv), bias=t.qkv_bias)
            module(f"{ours}attn.proj", block + self.proj, bias=self.proj_bias)
            module(f"{ours}norm2", block + self.norm2)
            module(f"{ours}mlp.fc1", block + self.fc1)
            if self.gate:
                module(f"{ours}mlp.gate", block + self.gate)
            module(f"{ours}mlp.fc2", block + self.fc2)
            if t.qk_norm:
                for part, theirs in zip(("q_norm", "k_norm"), self.qk_norm, strict=True):
                    module(f"{ours}attn.{part}", block + theirs)
            if t.layer_scale:
                for branch, theirs in zip(("attn", "mlp"), self.layer_scale, strict=True):
                    names[f"{ours}{branch}.layerscale"] = (block + theirs,)
        norm, head = self.final[t.final_norm]
        if t.final_norm != "none":
            module("norm", norm)
        module("head", head)
        if t.distillation == "head":
            module("head_dist", self.dist_head)
        return names

    def usual_heads(self, width: int, inner: int) -> int | None:
        """Heads cannot be read from shapes: the number the library uses by default, or None where it must be asked.

        ``inner`` is the width of q. vit-pytorch's heads are 64 wide unless told otherwise; the others follow the
        published sizes.
        """
        if self.name.startswith("vit-pytorch"):
            return inner // 64 if inner % 64 == 0 else None
        return PUBLISHED_HEADS.get(width)


def _parameter(module: str, kind: str) -> str:
    return module.format(kind) if "{}" in module else f"{module}.{kind}"


def _square(n: int) -> bool:
    return n > 0 and isqrt(n) ** 2 == n
