"""Where the classification head is: under the library's own name, or where fine-tuning scripts put another one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from testbed.core.errors import TestbedError, UsageError
from testbed.models.importers.facts.ledger import INSTEAD, Told
from testbed.models.importers.layout import KeyNames
from testbed.models.importers.read.checkpoint import WeightSet
from testbed.models.keys import listed


def with_head(
    path: Path, names: KeyNames, chosen: WeightSet, asked: str | None, reads: int = 1
) -> tuple[dict[str, Tensor], Told]:
    """The tensors with the head under the name that the layout gives it, and what was found.

    A linear layer that replaces the library's, alone or in a Sequential, is taken when it is the only one there.
    ``reads``: of how many tokens the head reads the width. ``asked``: the full name of the module that is the head.
    Raises UsageError for one that is no linear layer, TestbedError where there is no head, or one of several layers.
    """
    own = names["head.weight"][0].removesuffix(".weight")
    root = own.split(".")[0]
    everything = {**chosen.left_out, **chosen.tensors}
    spoken_for = {theirs for ours, group in names.items() if not ours.startswith("head.") for theirs in group}
    bias = chosen.tensors.get(names["block.0.mlp.fc2.bias"][0]) if "block.0.mlp.fc2.bias" in names else None
    norm = chosen.tensors.get(names["norm.weight"][0]) if "norm.weight" in names else bias
    width = reads * norm.shape[0] if norm is not None and norm.dim() else None
    linear = [
        name.removesuffix(".weight")
        for name, tensor in everything.items()
        if name.endswith(".weight") and tensor.dim() == 2 and width in (None, tensor.shape[1])
        if name not in spoken_for and name.removesuffix("weight") + "bias" in everything
    ]
    if asked is not None:
        if asked not in linear:
            raise UsageError(f"{path}: head = {asked} is no linear layer with a bias; such are: {listed(linear)}")
        return _renamed(chosen.tensors, everything, asked, own), Told("head", asked, "stated")
    inside = [name for name in linear if name.split(".")[0] == root and f"{name}.weight" in chosen.tensors]
    others = [n for n in chosen.tensors if n.split(".")[0] == root and n not in spoken_for]
    is_there = {f"{own}.weight", f"{own}.bias"} & chosen.tensors.keys()
    if is_there and len(inside) <= 1:
        return dict(chosen.tensors), Told("head", own, "file")
    if len(inside) == 1 and len(others) == 2:
        alone = re.fullmatch(rf"{re.escape(root)}(\.head)?(\.0)?", inside[0])
        head = Told("head", inside[0], "file" if alone else "usual", "" if alone else "before it: dropout at most")
        return _renamed(chosen.tensors, everything, inside[0], own), head
    if others:
        choice = f"; if only one is used, state it: --set head={inside[0]}" if inside else ""
        raise TestbedError(
            f"{path}: its head is not one linear layer ({listed(others)}): not supported{choice}; else {INSTEAD}"
        )
    elsewhere = [name for name in linear if not re.search(r"\d", name)]
    hint = f"; if {elsewhere[0]} is it, state --set head={elsewhere[0]}" if elsewhere else ""
    raise TestbedError(
        f"{path} has no classification head ({own}.weight, {own}.bias); import a trained classifier{hint}"
    )


def _renamed(
    tensors: Mapping[str, Tensor], everything: Mapping[str, Tensor], candidate: str, own: str
) -> dict[str, Tensor]:
    """``candidate`` under the layout's own name, and no other candidate beside it."""
    head = {f"{own}.{kind}": everything[f"{candidate}.{kind}"] for kind in ("weight", "bias")}
    rest = {n: t for n, t in tensors.items() if n.rpartition(".")[0] not in (candidate, own)}
    return rest | head
