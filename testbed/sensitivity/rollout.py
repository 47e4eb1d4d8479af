"""Attention rollout (Abnar & Zuidema, ACL 2020): how much each token of the input reaches each token of the output.

    A^_l = (mean_h A_l + I) / 2, its rows made to sum to 1;    R = A^_L ... A^_1

Shapes: B images, H heads, N tokens (CLS included), P = grid^2 patches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from testbed.models.config import ViTConfig


class Rollout:
    """The product of the blocks so far, in float64, one block at a time."""

    def __init__(self) -> None:
        self._product: Tensor | None = None

    def add(self, attention: Tensor) -> None:
        """Put the next block on top. attention: (B, H, N, N), rows are queries.

        Negative weights, which differential attention has, count as 0: a flow has no sign. A row that holds a NaN or an
        infinity, or nothing, stays as it is: its token passes itself on.
        """
        mean = attention.double().clamp(min=0).mean(1)
        eye = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
        mean = torch.where(mean.isfinite().all(-1, keepdim=True), mean, torch.zeros_like(mean))
        mixed = (mean + eye) / 2
        mixed = mixed / mixed.sum(-1, keepdim=True)
        self._product = mixed if self._product is None else mixed @ self._product

    def matrix(self, tokens: int, images: int) -> Tensor:
        """(B, N, N) of output tokens by input tokens; the identity where no block attends."""
        if self._product is None:
            return torch.eye(tokens, dtype=torch.float64).expand(images, -1, -1)
        return self._product


def query_weights(config: ViTConfig) -> Tensor:
    """(N,) how the tokens are pooled: 1 at CLS, or equal shares of those that the mean is taken over."""
    weights = torch.zeros(config.tokens)
    if config.distillation == "head":
        weights[:2] = 0.5
        return weights
    if config.pooling == "cls":
        weights[0] = 1
        return weights
    weights[0 if config.pooling == "mean" else config.prefix_tokens :] = 1
    return weights / weights.sum()


def patch_relevance(rollout: Tensor, config: ViTConfig) -> Tensor:
    """(B, P) what of each patch reaches what the head reads: the CLS row, or the mean of the pooled tokens' rows.

    rollout: (B, N, N).
    """
    rows = torch.einsum("n,bnm->bm", query_weights(config).to(rollout), rollout)
    return rows[:, config.prefix_tokens :]
