"""Attention distance: how far, in pixels, a head looks (Dosovitskiy et al., ICLR 2021, appendix D.7).

For each query patch the mean of the distances between its centre and those of all patches, weighted by the attention that
it pays them (weights of CLS are left out, the rest made to sum to 1); then the mean over the query patches.

Shapes: B images, H heads, N tokens (CLS included), P = grid^2 patches.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from testbed.analysis.stats import mean_interval
from testbed.models.config import ViTConfig


def patch_distances(config: ViTConfig) -> Tensor:
    """(P, P) float64, in pixels, between the centres of patches in row-major order."""
    line = torch.arange(config.grid, dtype=torch.float64) * config.patch
    row, column = torch.meshgrid(line, line, indexing="ij")
    centres = torch.stack([row.flatten(), column.flatten()], -1)
    return torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")


def head_distances(attention: Tensor, config: ViTConfig) -> Tensor:
    """(B, H) float64 pixels. attention: (B, H, N, N); negative weights, of differential attention, count by their size."""
    patches = slice(config.tokens - config.grid**2, None)
    weights = attention[:, :, patches, patches].double().abs()
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-300)
    distances = patch_distances(config).to(weights.device)
    return (weights * distances).sum(-1).mean(-1)


@dataclass(frozen=True)
class HeadDistance:
    """One head's attention distance over the images. low, high: of the mean, by Student's t, images being independent;
    they and std are None for a single image."""

    block: int
    head: int
    mean_px: float
    std_px: float | None
    low_px: float | None
    high_px: float | None
    images: int

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def summarise_distances(block: int, distances: NDArray[np.float64], confidence: float = 0.95) -> list[HeadDistance]:
    """A record for each head. distances: (images, H) pixels of one block."""
    n = len(distances)
    records = []
    for head, values in enumerate(distances.T):
        mean, low, high = mean_interval(values, confidence)
        known = n > 1
        std = float(values.std(ddof=1)) if known else None
        records.append(
            HeadDistance(block, head, mean, std, max(0.0, low) if known else None, high if known else None, n)
        )
    return records
