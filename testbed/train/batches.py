"""The training batches of one epoch: seeded order, augmentation, normalisation."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from testbed.data import Split
from testbed.train.seeding import generator


def training_batches(
    split: Split, size: int, augmentation: str, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(images float32 (b, C, S, S), labels int64 (b,)); every image once, the last batch may be smaller."""
    order = torch.randperm(len(split), generator=generator(seed, "order", epoch)).numpy()
    draws = generator(seed, "augmentation", epoch)
    for start in range(0, len(order), size):
        positions = order[start : start + size]
        images = torch.from_numpy(split.batch(positions))
        if augmentation == "shift":
            images = _shifted(images, draws)
        yield images, torch.from_numpy(split.labels[positions])


def _shifted(images: Tensor, draws: torch.Generator) -> Tensor:
    """Each image moved by -1, 0 or 1 pixels along each axis; the freed edge repeats what was there."""
    count, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), mode="replicate")
    rows = torch.randint(3, (count, 1), generator=draws) + torch.arange(height)
    columns = torch.randint(3, (count, 1), generator=draws) + torch.arange(width)
    return padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
