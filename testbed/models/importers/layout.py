"""What a layout is: how a library names a Vision Transformer's parameters."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import isqrt

from testbed.models.config import FinalNorm, Patchify

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


@dataclass(frozen=True)
class Layout:
    """The library's modules by our names for them; each has a weight and a bias. ``block`` is a block's prefix.

    ``normed_patch_embed`` holds the modules where LayerNorms surround the patch projection. ``final`` gives the final
    norm and the head for each place that norm can sit. A "{}" in a module stands where "weight" or "bias" goes.
    ``fixed_positions``: SimpleViT's table, which is in no file.
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

    def traits(self, keys: Collection[str], positions: int) -> Traits:
        """``positions``: rows of the position table, 0 if there is none."""
        prefix = re.compile(re.escape(self.block).replace(r"\{\}", r"(\d+)"))
        numbers = {int(match[1]) for key in keys if (match := prefix.match(key))}
        normed = self.normed_patch_embed or {}
        only_normed = {f"{m}.weight" for m in normed.values()} - {f"{m}.weight" for m in self.patch_embed.values()}
        final_norms = [where for where, (norm, _) in self.final.items() if f"{norm}.weight" in keys]
        return Traits(
            depth=1 + max(numbers, default=-1),
            cls_token=self.cls_token in keys or (not _square(positions) and _square(positions - 1)),
            patch_norm=bool(only_normed & set(keys)),
            qkv_bias=any(self.block.format(n) + _parameter(self.qkv[0], "bias") in keys for n in numbers),
            final_norm=final_norms[0] if final_norms else next(iter(self.final)),
        )

    def names(self, t: Traits) -> KeyNames:
        """Every parameter of a model with these traits."""
        names: KeyNames = {}

        def module(ours: str, *theirs: str, bias: bool = True) -> None:
            for kind in ("weight", "bias") if bias else ("weight",):
                names[f"{ours}.{kind}"] = tuple(_parameter(their, kind) for their in theirs)

        patch_embed = self.normed_patch_embed if t.patch_norm and self.normed_patch_embed else self.patch_embed
        for part, theirs in patch_embed.items():
            module(f"patch_embed.{part}", theirs)
        if t.cls_token:
            names["cls_token"] = (self.cls_token,)
        if not self.fixed_positions:
            names["pos_embed"] = (self.pos_embed,)
        for n in range(t.depth):
            ours, block = f"block.{n}.", self.block.format(n)
            module(f"{ours}norm1", block + self.norm1)
            module(f"{ours}attn.qkv", *(block + part for part in self.qkv), bias=t.qkv_bias)
            module(f"{ours}attn.proj", block + self.proj, bias=self.proj_bias)
            module(f"{ours}norm2", block + self.norm2)
            module(f"{ours}mlp.fc1", block + self.fc1)
            module(f"{ours}mlp.fc2", block + self.fc2)
        norm, head = self.final[t.final_norm]
        module("norm", norm)
        module("head", head)
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
