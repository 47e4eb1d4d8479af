"""Parts of a model as models of their own: one attention module or one block, with the full model's names.

A target is written "model", "attention" (the first attention module), "attention:N" or "block:N".
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from testbed.core.errors import UsageError
from testbed.models.config import ViTConfig
from testbed.models.vit import Attention, Block, ViT

_TARGET = re.compile(r"(attention|block)(?::(\d+))?")


@dataclass(frozen=True)
class SubnetworkPlace:
    """``kind`` is "attention" or "block"; ``block`` the block it is (in)."""

    kind: Literal["attention", "block"]
    block: int


class Subnetwork(nn.Module):
    """(B, N, D) -> (B, N, D): an ``Attention`` or a ``Block`` on its own, in eval mode.

    Its taps and parameters have the full model's names (``block.0.attn.q``, ``block.0.attn.qkv.weight``).
    For attention, the input is the attention's (after a pre-norm), the output is before the residual.
    """

    def __init__(self, module: Attention | Block, part: SubnetworkPlace) -> None:
        super().__init__()
        self.part = part
        holder = nn.ModuleDict({"attn": module}) if part.kind == "attention" else module
        self.block = nn.ModuleDict({str(part.block): holder})  # "block.N.attn...": the names the full model gives
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        holder = self.block[str(self.part.block)]
        return holder["attn"](x) if isinstance(holder, nn.ModuleDict) else holder(x)


def part_named(model: ViT, target: str) -> SubnetworkPlace:
    """What "attention", "attention:N" or "block:N" means in ``model``. Raises UsageError when it has no such part."""
    return part_of(model.config, target)


def part_of(config: ViTConfig, target: str) -> SubnetworkPlace:
    """`part_named` of a model that is not there yet."""
    match = _TARGET.fullmatch(target)
    if not match or (match[1] == "block" and match[2] is None):
        raise UsageError(f"unknown target {target!r}; targets: model, attention, attention:N, block:N")
    attending = [i for i, heads in enumerate(config.heads) if heads]
    number = int(match[2]) if match[2] is not None else next(iter(attending), 0)
    if number >= config.depth:
        raise UsageError(f"target {target!r}: the model has {config.depth} blocks, numbered from 0")
    if match[1] == "attention" and number not in attending:
        raise UsageError(f"target {target!r}: block {number} has no attention")
    if match[1] == "block" and not (config.heads[number] or config.mlp[number]):
        raise UsageError(f"target {target!r}: block {number} is empty, all of it has been pruned")
    return SubnetworkPlace("attention" if match[1] == "attention" else "block", number)


def target_module(model: ViT, target: str) -> nn.Module:
    """The module of ``model`` itself whose inputs and outputs are the target's: hook it to record them."""
    return model if target == "model" else _module(model, part_named(model, target))


def subnetwork(model: ViT, target: str) -> Subnetwork:
    """The named part of ``model`` as a module of its own, weights copied. Raises UsageError for other targets."""
    part = part_named(model, target)
    return Subnetwork(copy.deepcopy(_module(model, part)), part)


def _module(model: ViT, part: SubnetworkPlace) -> Attention | Block:
    block = model.block[part.block]
    assert isinstance(block, Block)
    return block.attn if part.kind == "attention" else block
