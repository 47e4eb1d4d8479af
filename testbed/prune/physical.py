"""Heads and neurons cut out of a ViT: what is left is a smaller ViT, equal to the original with those parts masked.

A head is its rows of qkv (weights and biases) and its columns of the projection; a neuron its row of fc1, its bias and
its column of fc2. The projections' own biases stay while anything of their branch does, and go with the last of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from testbed.core.errors import UsageError
from testbed.models.vit import Attention, Block, Mlp, Tap, ViT
from testbed.sensitivity.circuits.components import KeptComponents


def prune(model: ViT, kept: KeptComponents) -> ViT:
    """A new model, in eval mode, of the kept parts; ``model`` is not changed.

    Equal to ``masked(model, kept)`` to float tolerance. Raises UsageError when nothing of any block is kept, or when
    ``kept`` is of another model.
    """
    kept.check(model.config)
    if kept.is_empty and model.config.depth:
        raise UsageError("nothing of any block would be left; prune less")
    config = model.config.with_(heads=tuple(map(len, kept.heads)), mlp=tuple(map(len, kept.neurons)))
    with torch.random.fork_rng(
        devices=[]
    ):  # its initial weights are thrown away; the caller's draws stay what they are
        smaller = ViT(config)
    smaller.to(next(model.parameters()).dtype)
    shared = {name: value for name, value in model.state_dict().items() if not name.startswith("block.")}
    missing, unexpected = smaller.load_state_dict(shared, strict=False)
    assert not unexpected
    assert all(name.startswith("block.") for name in missing)
    with torch.no_grad():
        for number, (old, new) in enumerate(zip(model.block, smaller.block, strict=True)):
            assert isinstance(old, Block)
            assert isinstance(new, Block)
            _cut_block(old, new, kept.heads[number], kept.neurons[number])
    return smaller.eval()


def _cut_block(old: Block, new: Block, heads: tuple[int, ...], neurons: tuple[int, ...]) -> None:
    for name in ("norm1", "norm2"):
        if hasattr(new, name):
            getattr(new, name).load_state_dict(getattr(old, name).state_dict())
    if heads:
        _cut_attention(old.attn, new.attn, heads)
    if neurons:
        _cut_mlp(old.mlp, new.mlp, neurons)


def _cut_attention(old: Attention, new: Attention, heads: tuple[int, ...]) -> None:
    width, inner = old.head_width, old.heads * old.head_width
    columns = torch.cat([torch.arange(head * width, (head + 1) * width) for head in heads])
    rows = torch.cat([part * inner + columns for part in range(3)])  # q, k and v, one after the other
    _copy(old.qkv, new.qkv, rows=rows)
    _copy(old.proj, new.proj, columns=columns)
    if old.qk_norm:
        new.q_norm.load_state_dict(old.q_norm.state_dict())
        new.k_norm.load_state_dict(old.k_norm.state_dict())
    if old.layer_scale:
        new.layerscale.copy_(old.layerscale)
    if old.differential:
        new.mix.copy_(old.mix)


def _cut_mlp(old: Mlp, new: Mlp, neurons: tuple[int, ...]) -> None:
    chosen = torch.tensor(neurons)
    _copy(old.fc1, new.fc1, rows=chosen)
    if old.is_gated:
        _copy(old.gate, new.gate, rows=chosen)
    if old.layer_scale:
        new.layerscale.copy_(old.layerscale)
    _copy(old.fc2, new.fc2, columns=chosen)


def _copy(old: nn.Linear, new: nn.Linear, rows: Tensor | None = None, columns: Tensor | None = None) -> None:
    """Outputs are rows of the weight, inputs its columns; a bias is of the outputs."""
    weight = old.weight if rows is None else old.weight[rows]
    new.weight.copy_(weight if columns is None else weight[:, columns])
    if old.bias is not None:
        new.bias.copy_(old.bias if rows is None else old.bias[rows])


@contextmanager
def masked(model: ViT, kept: KeptComponents) -> Iterator[ViT]:
    """``model`` itself, for the length of the block without what is not kept: contexts and activations set to zero."""
    kept.check(model.config)
    handles = []
    for number, block in enumerate(model.block):
        assert isinstance(block, Block)
        if block.has_attention:
            handles.append(_silence(block.attn.context, _head_columns(block.attn, kept.heads[number])))
            if not kept.heads[number]:
                handles.append(_silence(block.attn.out, None))
        if block.has_mlp:
            handles.append(_silence(block.mlp.neurons, torch.tensor(kept.neurons[number], dtype=torch.long)))
            if not kept.neurons[number]:
                handles.append(_silence(block.mlp.out, None))
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def _head_columns(attention: Attention, heads: tuple[int, ...]) -> Tensor:
    width = attention.head_width
    runs = [torch.arange(head * width, (head + 1) * width) for head in heads]
    return torch.cat(runs) if runs else torch.zeros(0, dtype=torch.long)


def _silence(tap: Tap, kept: Tensor | None) -> torch.utils.hooks.RemovableHandle:
    """Zeroes the last axis but for ``kept``; all of it with None."""

    def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        mask = torch.zeros(output.shape[-1], dtype=output.dtype, device=output.device)
        if kept is not None:
            mask[kept.to(output.device)] = 1
        return torch.where(mask.bool(), output, torch.zeros_like(output))

    return tap.register_forward_hook(hook)
