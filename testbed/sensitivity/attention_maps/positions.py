"""How alike the embeddings of positions are: cosine similarity of every patch's with every other's."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from testbed.models.vit import ViT


def position_embedding(model: ViT) -> Tensor | None:
    """(P, D) what the model adds to the patches, in row-major order; None where it adds nothing."""
    config = model.config
    match config.position:
        case "1d":
            table = model.pos_embed[0]
        case "2d":
            table = (model.pos_row + model.pos_column).flatten(1, 2)[0]
        case "sinusoidal" | "sincos_2d":
            table = cast(Tensor, model.pos_table)[0]
        case _:
            return None
    return table[len(table) - config.grid**2 :].detach()


def position_similarity(embedding: Tensor) -> Tensor:
    """(P, P) float64 cosine similarities; 0 beside an embedding of zeros. embedding: (P, D)."""
    unit = torch.nn.functional.normalize(embedding.double(), dim=-1)
    return unit @ unit.T
