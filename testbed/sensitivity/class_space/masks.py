"""Which patches of an image lie on the labelled object: segmentation masks, brought to the patch grid.

ImageNet-S        the data set's own masks (``testbed.data.sets.imagenet_s``)
a folder          DIR/<image id>.png, 0 beside the object and anything else on it; the id's own ending goes

A mask goes through the image's own geometry (resize, centre crop) and a patch is on the object where at least half of
its pixels are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from testbed.core.arrays import Bools, Float64s
from testbed.core.errors import UsageError
from testbed.data import Split
from testbed.data.registry import data_root
from testbed.data.sets.imagenet_s import IGNORED, segmentation_mask
from testbed.models.config import ViTConfig


class MaskReader(Protocol):
    """(H, W) of an image, as large as the stored image. Raises UsageError or TestbedError where there is none."""

    def __call__(self, image_id: str) -> Bools: ...


@dataclass(frozen=True)
class MaskFolder:
    """A folder of PNG files, one per image id."""

    folder: Path

    def __call__(self, image_id: str) -> Bools:
        from testbed.data.decoding import decoded

        path = self.folder / Path(image_id).with_suffix(".png")
        if not path.is_file():
            raise UsageError(f"image {image_id!r} has no mask {path}; write one PNG per image, 0 beside the object")
        pixels = decoded(path)
        return (pixels.max(-1) if pixels.ndim == 3 else pixels) > 0


@dataclass(frozen=True)
class ImageNetSMasks:
    """The masks of ImageNet-S's validation part; pixels that the annotators left open count as context."""

    root: Path

    def __call__(self, image_id: str) -> Bools:
        numbers = segmentation_mask(self.root, image_id)
        return (numbers > 0) & (numbers != IGNORED)


@dataclass(frozen=True)
class PatchMasks:
    """Masks on the model's patch grid, ``grid`` patches along a side."""

    reader: MaskReader
    grid: int

    def patches(self, split: Split, position: int) -> Bools:
        """(grid^2,), row by row: is the patch on the labelled object? Raises UsageError for a mask of another size than
        the image."""
        fitted = object_shares(self.reader, split, position)
        side = split.image // self.grid
        shares = fitted.reshape(self.grid, side, self.grid, side).mean(axis=(1, 3))
        on_object: Bools = (shares >= 0.5).ravel()
        return on_object


def patch_masks(source: str, config: ViTConfig, root: str | None = None) -> PatchMasks:
    """`mask_reader`'s masks, on the patch grid of the model."""
    return PatchMasks(mask_reader(source, root), config.grid)


def mask_reader(source: str, root: str | None = None) -> MaskReader:
    """Masks from ``source``: "imagenet-s" (under the data root ``root``), or a folder. Raises UsageError for a folder
    that is not there."""
    if source == "imagenet-s":
        return ImageNetSMasks(data_root(root))
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise UsageError(f"there is no folder of masks {folder}; name one, or 'imagenet-s' for that data set's own")
    return MaskFolder(folder)


def object_shares(reader: MaskReader, split: Split, position: int) -> Float64s:
    """(S, S): how much of each pixel of the model's input is the labelled object, from 0 to 1. Raises UsageError for a
    mask of another size than the image."""
    image_id = split.ids[position]
    mask = reader(image_id)
    size = split.pixels(position).shape[:2]
    if mask.shape != size:
        raise UsageError(
            f"the mask of image {image_id!r} is {_extent(mask.shape)} pixels, the image {_extent(size)};"
            " give masks of the stored images' size"
        )
    fitted = split.preprocess.fitted(mask.astype(np.uint8) * 255, split.image)
    shares: Float64s = fitted.astype(np.float64) / 255
    return shares


def _extent(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
