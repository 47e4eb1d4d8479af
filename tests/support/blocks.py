"""A model's blocks with their type, which torch's list of modules does not keep."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from testbed.models.vit import Block, ViT


def blocks_of(model: ViT) -> list[Block]:
    """The blocks of a model, first to last."""
    return list(cast(Iterable[Block], model.block))
