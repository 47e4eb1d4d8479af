"""Families of Vision Transformers that our one model cannot be, recognised by the names of their parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from testbed.core.errors import TestbedError
from testbed.models.importers.facts.ledger import INSTEAD
from testbed.models.keys import listed

_FAMILIES = {
    r"^(swin(v2)?\.|layers\.\d+\.blocks\.\d+\.attn\.|features\.\d+\.\d+\.attn\.)": "Swin, with attention in windows",
    r"(attn_grid|attn_block)\.|\.layers\.(window|grid)_attention\.": "MaxViT, with convolutions and attention in windows",
    r"^blocks_token_only\.": "CaiT, with class attention after the blocks and heads that are mixed",
    r"^cls_attn_blocks\.": "XCiT, with attention between channels",
    r"^(pos_embed|cls_token)_[01]$": "CrossViT, with two streams of tokens",
    r"^patch_embeds\.\d": "Twins, whose stages shrink the image",
    r"factoratt_crpe": "CoaT, with convolutions and factorised attention",
    r"attention_biases$": "LeViT or TinyViT, with convolutions and a bias of positions in attention",
    r"^(mobilevit(v2)?)\.": "MobileViT, with convolutions",
    r"^(pvt(_v2)?|cvt|hiera|levit)\.": "a hierarchical ViT, whose stages shrink the image",
    r"gating_param$": "ConViT, with gated positions in attention",
    r"^pixel_embed\.": "TNT, with transformers inside patches",
    r"^network\.\d+\.\d+\.": "VOLO, with outlook attention",
    r"^transformers\.\d+\.blocks\.": "PiT, whose stages shrink the image",
    r"^levels\.\d+\.transformer_encoder\.": "NesT, whose levels shrink the image",
    r"^(patch_embed\.backbone\.|vit\.embeddings\.patch_embeddings\.backbone\.)": "a hybrid ViT, with convolutions first",
    r"^blocks\.\d+\.attn\.rel_pos\.|attn\.rel_pos_[hw]$": "a ViT with relative positions in attention",
    r"(relative_position_bias_table|attn\.(q|v)_bias)$": "BEiT or EVA, with relative or rotary positions in attention",
    r"^stages\.\d+\.": "a hierarchical network, whose stages shrink the image",
}


def refuse_families(path: Path, names: Iterable[str]) -> None:
    """Raises TestbedError that names the first family whose parameters are among these names."""
    names = list(names)
    for pattern, family in _FAMILIES.items():
        if keys := [name for name in names if re.search(pattern, name)]:
            raise TestbedError(f"{path} is {family}, which is not supported; {INSTEAD} (its keys: {listed(keys[:3])})")
