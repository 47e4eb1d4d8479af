"""The training batches of one epoch: seeded order, augmentation, noise."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from testbed.data import Split
from testbed.data.augment import augmented_batch
from testbed.train.recipes import Recipe
from testbed.train.seeding import derived_seed, generator


def training_batches(split: Split, recipe: Recipe, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(images float32 (b, C, S, S), labels int64 (b,)); every image once, the last batch may be smaller."""
    order = torch.randperm(len(split), generator=generator(seed, "order", epoch)).numpy()
    augmentation_seed, noise = derived_seed(seed, "augmentation"), generator(seed, "noise", epoch)
    for start in range(0, len(order), recipe.batch):
        positions = order[start : start + recipe.batch]
        images = torch.from_numpy(
            augmented_batch(split, positions, recipe.augmentation, seed=augmentation_seed, epoch=epoch)
        )
        if recipe.input_noise:
            images += recipe.input_noise * torch.randn(images.shape, generator=noise)
        yield images, torch.from_numpy(split.labels[positions])
