"""Maps that a library keeps in one matrix and our model in two: the first half is the gate of a gated MLP."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

# The packed map, the last one -> names of the gate and of the other map, and of the last one.
_PACKED = (
    (r"(.*\.mlp\.)fc1$", "fc2", ("fc1_g", "fc1_x", "fc2")),  # timm
    (r"(.*\.mlp\.)weights_in$", "weights_out", ("gate_proj", "up_proj", "down_proj")),  # Hugging Face
)


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with every packed pair of maps as two.

    A pair is packed where the first map has twice the rows that the last one takes.
    """
    apart = dict(tensors)
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        for pattern, last, (gate, first, second) in _PACKED:
            match = re.fullmatch(pattern, module)
            if match is None or kind != "weight" or not _is_packed(tensor, tensors.get(f"{match[1]}{last}.weight")):
                continue
            for part in ("weight", "bias"):
                if (packed := apart.pop(f"{module}.{part}", None)) is not None:
                    halves = [half.clone() for half in packed.chunk(2)]
                    apart |= {f"{match[1]}{gate}.{part}": halves[0], f"{match[1]}{first}.{part}": halves[1]}
                if (packed := apart.pop(f"{match[1]}{last}.{part}", None)) is not None:
                    apart[f"{match[1]}{second}.{part}"] = packed
    return apart


def repacked(tensors: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """The tensors with two maps as one where a library's model, whose names are ``wanted``, has one."""
    together = dict(tensors)
    for name in tensors:
        match = re.fullmatch(r"(.*\.mlp\.fc1)_g(\.weight|\.bias)", name)
        if match and name not in wanted and f"{match[1]}{match[2]}" in wanted:
            halves = [together.pop(f"{match[1]}_{part}{match[2]}") for part in "gx"]
            together[f"{match[1]}{match[2]}"] = torch.cat(halves)
    return together


def _is_packed(first: Tensor, last: Tensor | None) -> bool:
    return last is not None and first.dim() == last.dim() == 2 and first.shape[0] == 2 * last.shape[1]
