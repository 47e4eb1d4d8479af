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
    (``mlp.*``), or within one block (``block.2.attn.scores``), that the structure has no tensor for -> why.
    """

    name: str
    family: str
    library: ModelLibrary
    build: Callable[[], nn.Module]
    blocks: int
    image: int = 32
    channels: int = 3
    absent: Mapping[str, str] = field(default_factory=dict)
