"""The fixed images that circuit scores are measured on, and their corrupt counterparts.

Whatever order the images come in, an image keeps its partner and its noise: both follow from its id and the seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from testbed.core.arrays import Float64s
from testbed.core.errors import UsageError
from testbed.core.words.nearest import unknown

Corruption = Literal["other_class", "mean", "noise", "masked"]
CORRUPTIONS: tuple[Corruption, ...] = ("other_class", "mean", "noise", "masked")
BATCH = 64


@dataclass(frozen=True)
class AnalysisSet:
    """Images to analyse a model with. images: (n, C, S, S) float32, normalised; labels: (n,) int64; ids: n distinct
    names; masked: (n, C, S, S), the same images without their labelled objects, where masks are known."""

    images: Tensor
    labels: Tensor
    ids: tuple[str, ...]
    masked: Tensor | None = None

    def __post_init__(self) -> None:
        n = len(self.images)
        if not n or len(self.labels) != n or len(set(self.ids)) != n:
            raise UsageError(f"{n} analysis images need as many labels and distinct ids, and at least one")
        if self.masked is not None and self.masked.shape != self.images.shape:
            raise UsageError(
                f"masked images {tuple(self.masked.shape)} are wanted in the images' shape {tuple(self.images.shape)}"
            )

    @classmethod
    def of(cls, images: NDArray[np.float32], labels: NDArray, ids: Sequence[str]) -> AnalysisSet:
        return cls(torch.from_numpy(images), torch.from_numpy(np.asarray(labels, np.int64)), tuple(ids))

    def with_objects(self, shares: Float64s) -> AnalysisSet:
        """The same set with masks. shares: (n, S, S), how much of a pixel is the labelled object, from 0 to 1.

        The object's place takes, channel by channel, the mean colour of what is not object; of the whole image where the
        object fills it. An image without any object stays as it is.
        """
        inside = torch.from_numpy(shares)[:, None]
        pixels = self.images.double()
        outside = 1 - inside
        outside = torch.where(outside.sum((-2, -1), keepdim=True) > 0, outside, torch.ones_like(outside))
        colour = (pixels * outside).sum((-2, -1), keepdim=True) / outside.sum((-2, -1), keepdim=True)
        return replace(self, masked=(pixels + inside * (colour - pixels)).to(self.images.dtype))

    def __len__(self) -> int:
        return len(self.images)

    def batches(self) -> Iterator[slice]:
        for start in range(0, len(self), BATCH):
            yield slice(start, min(start + BATCH, len(self)))

    def corrupted(self, how: Corruption, seed: int = 0, snr_db: float = 0.0) -> Tensor:
        """(n, C, S, S): what each image is replaced by.

        ``other_class``: another image of the set, of another class, drawn by the seed so that every image is used about
        equally often; ``mean``: the set's mean image; ``noise``: the image with Gaussian noise of ``snr_db`` decibels;
        ``masked``: the same image without its object (`with_objects`). Raises UsageError for an unknown corruption, where
        all images are of one class, and where no masks are known.
        """
        if how == "other_class":
            return self.images[self.partners(seed)]
        if how == "mean":
            return self.images.double().mean(0, keepdim=True).to(self.images.dtype).expand_as(self.images)
        if how == "noise":
            noise = torch.stack([_noise(image_id, seed, self.images[0]) for image_id in self.ids])
            power = self.images.double().pow(2).mean(dim=(1, 2, 3), keepdim=True)
            return self.images + noise * (power / 10 ** (snr_db / 10)).sqrt().to(self.images.dtype)
        if how == "masked":
            if self.masked is None:
                raise UsageError(
                    "corruption 'masked' takes the object out of each image, and these have no masks; name them:"
                    " --masks DIR, or --masks imagenet-s"
                )
            return self.masked
        raise UsageError(unknown("corruption", how, CORRUPTIONS))

    def partners(self, seed: int) -> Tensor:
        """(n,) for each image the number of another one, of another class: a derangement where the classes allow it."""
        labels = self.labels.tolist()
        if len(set(labels)) < 2:
            raise UsageError(
                "all analysis images are of one class; another class's image is needed to corrupt them with"
            )
        order = sorted(range(len(self)), key=lambda row: _digest(self.ids[row], seed))
        by_class = sorted(order, key=lambda row: labels[row])  # stable: random within a class
        n, most = len(order), max(labels.count(label) for label in set(labels))
        partner = torch.empty(n, dtype=torch.long)
        for position, row in enumerate(by_class):
            # a shift by the largest class's size leaves every class; where that class is more than half, its own
            # images may come round again, so go on to the next one of another class
            other = next(
                by_class[(position + most + step) % n]
                for step in range(n)
                if labels[by_class[(position + most + step) % n]] != labels[row]
            )
            partner[row] = other
        return partner


def _digest(image_id: str, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{image_id}".encode(), digest_size=8).digest(), "little")


def _noise(image_id: str, seed: int, like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(_digest(image_id, seed) % 2**63)
    return torch.randn(like.shape, generator=generator)
