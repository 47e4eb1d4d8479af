"""One architecture of the support matrix: how it is built, and what its blocks are expected to hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import nn

ModelLibrary = Literal["timm", "transformers", "torchvision", "vit-pytorch"]
LIBRARIES: tuple[ModelLibrary, ...] = get_args(ModelLibrary)
CLASSES = 10


@dataclass(frozen=True)
class Architecture:
    """A small model of a family. ``build``: makes it, with random weights; ``blocks``: transformer blocks by its own count.

    ``image``: side of its square inputs, pixels. ``absent``: shell patterns of names within a block
    (``mlp.*``), or within one block (``block.2.attn.scores``), that the structure has no tensor for -> why. ``named``: name
    within a block that the plain Vision Transformer has -> those that stand for it here.
    """

    name: str
    family: str
    library: ModelLibrary
    build: Callable[[], nn.Module]
    blocks: int
    image: int = 32
    channels: int = 3
    absent: Mapping[str, str] = field(default_factory=dict)
    named: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


GATED: Mapping[str, tuple[str, ...]] = {"mlp.fc1": ("mlp.fc1_gate", "mlp.fc1_value")}
"""An MLP whose activation function's map and the values that it gates are two maps."""
ONE_JOINT: Mapping[str, tuple[str, ...]] = {"attn.residual": ("residual",), "mlp.residual": ("residual",)}
"""Attention and MLP are added to the stream together."""
SIDE_BY_SIDE: Mapping[str, tuple[str, ...]] = {
    "norm1": ("attn.0.norm", "attn.1.norm"),
    "norm2": ("mlp.0.norm", "mlp.1.norm"),
    **{
        f"attn.{of}": (f"attn.0.{of}", f"attn.1.{of}") for of in ("q", "k", "v", "scores", "softmax", "context", "proj")
    },
    **{f"mlp.{of}": (f"mlp.0.{of}", f"mlp.1.{of}") for of in ("fc1", "gelu", "fc2")},
}
"""Two attentions, and then two MLPs, that take the same stream and are added to it together."""
