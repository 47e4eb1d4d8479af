"""What a loader of data sets returns: stored images with stable ids and labels, in up to three parts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from testbed.core.errors import TestbedError, UsageError
from testbed.data.decoding import decoded, is_image

log = logging.getLogger(__name__)


class Images(Protocol):
    """Stored images by row: (H, W) or (H, W, 3); uint8, or float32 in [0, 1]."""

    def __len__(self) -> int: ...

    def pixels(self, row: int) -> np.ndarray: ...

    def content(self, row: int) -> bytes:
        """The bytes that stand for the image in a content hash."""
        ...


class ArrayImages:
    """Images held in memory: (n, H, W) or (n, H, W, 3); uint8, float32, or uint16 (read as value / 65535) or bool."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def pixels(self, row: int) -> np.ndarray:
        stored = self.array[row]
        if stored.dtype == np.uint16:
            return stored / np.float32(2**16 - 1)
        return stored.astype(np.float32) if stored.dtype == bool else stored

    def content(self, row: int) -> bytes:
        return np.ascontiguousarray(self.array[row]).tobytes()


class FileImages:
    """Image files, decoded as RGB when read (``testbed.data.decoding``); only the paths are held."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def pixels(self, row: int) -> np.ndarray:
        """The decoded image: (H, W, 3) uint8. Raises TestbedError naming a bad file."""
        return decoded(self.paths[row])

    def is_image(self, row: int) -> bool:
        """Does the file begin as one? Nothing is decoded."""
        return is_image(self.paths[row])

    def content(self, row: int) -> bytes:
        """The file's bytes, which stand for the image in a content hash."""
        try:
            return self.paths[row].read_bytes()
        except OSError as error:
            raise TestbedError(f"cannot read image {self.paths[row]}: {error.strerror}") from error


@dataclass(frozen=True, eq=False)
class Examples:
    """Stored images with their stable ids and int64 labels (n,)."""

    ids: list[str]
    labels: np.ndarray
    images: Images

    def __post_init__(self) -> None:
        labels = np.array(self.labels, np.int64)
        labels.flags.writeable = False
        object.__setattr__(self, "labels", labels)
        if not len(self.ids) == len(labels) == len(self.images):
            counts = f"{len(self.ids)} ids, {len(labels)} labels and {len(self.images)} images"
            raise UsageError(f"data set: {counts} do not match; give one of each per image")
        if len(set(self.ids)) != len(self.ids):
            raise UsageError("data set: two images share one id")

    @classmethod
    def from_arrays(cls, name: str, images: np.ndarray, labels: np.ndarray) -> Examples:
        """Images (n, H, W) or (n, H, W, 3), uint8, uint16, bool or floats in [0, 1]; whole-number labels (n,).

        Ids are ``name/0000``, the number being the row, padded so that they sort. Raises UsageError for anything else.
        """
        images, labels = np.asarray(images), np.asarray(labels)
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise UsageError(f"{name}: labels must be whole numbers (n,), not {labels.dtype} {labels.shape}")
        images = _checked_images(name, images)
        digits = max(4, len(str(len(images) - 1)))
        return cls([f"{name}/{row:0{digits}d}" for row in range(len(images))], labels, ArrayImages(images))


def _checked_images(name: str, images: np.ndarray) -> np.ndarray:
    """Images as uint8, uint16, bool or float32, a single channel without its axis; other types are refused.

    A type whose range is known is converted by it. Advice for the others must not wrap or clip a value.
    """
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3) or 0 in images.shape[1:]:
        raise UsageError(f"{name}: images must be (n, H, W) or (n, H, W, 3), not {images.shape}; channels come last")
    if images.dtype.kind in "iuf":
        images = images.astype(images.dtype.newbyteorder("="), copy=False)
    if images.dtype in (np.uint8, np.uint16, bool):
        _warn_of_dark(name, images)
        return images
    if images.dtype.kind in "iu":
        raise UsageError(f"{name}: images are {images.dtype}, whose white is not told; {_scaled(images)}")
    if images.dtype.kind != "f":
        raise UsageError(f"{name}: images must be uint8, uint16 or floats in [0, 1], not {images.dtype}")
    for row, image in enumerate(images):  # one at a time: no mask as large as the array
        if not np.isfinite(image).all():
            raise UsageError(f"{name}: image {row} holds NaN or infinity; repair or drop it")
        if image.min() < 0 or image.max() > 1:
            raise UsageError(f"{name}: image {row} has values outside [0, 1]; {_scaled(images)}")
    _warn_of_dark(name, images)
    return images.astype(np.float32, copy=False)


def _scaled(images: np.ndarray) -> str:
    """What to do with values of a range that the type does not tell."""
    if not images.size:
        return "give uint8, or floats in [0, 1]"
    low, high = images.min(), images.max()
    fix = "give floats in [0, 1]: (images - BLACK) / (WHITE - BLACK), with the values that stand for black and white"
    if low < 0 or not np.isfinite([low, high]).all():
        return f"they go from {low:.6g} to {high:.6g}; {fix}"
    usual = next((white for white in (1, 255, 4095, 65535) if high <= white), None)
    such = "" if usual is None else f" (images / {usual} if {usual} is white)"
    return f"they go from {low:.6g} to {high:.6g}; {fix}{such}"


def _warn_of_dark(name: str, images: np.ndarray) -> None:
    white = {"u1": 255, "u2": 65535, "b1": None}.get(images.dtype.str[1:], 1)
    if white and images.size and 0 < images.max() <= white / 16:
        log.warning(
            "%s: images are %s and hold no value above %.6g: read as 0..%d, so they are nearly black; if that value is"
            " white, give floats in [0, 1] instead, such as images / %.6g",
            *(name, images.dtype, images.max(), white, images.max()),
        )


@dataclass(frozen=True, eq=False)
class Collection:
    """What a loader returns. Without ``validation``, a seeded part of ``train`` becomes it; without ``train``, both are
    empty. ``image`` is the side of the model input in pixels, unless the caller asks for another.
    ``sorted_by_name``: nothing but the names of folders tells the order of the classes.
    ``folders``: what the classes are called on disk, where that is another name.
    ``seeded_test``: the test images are a draw by the seed, so that another seed's model was trained on some of them."""

    classes: list[str]
    test: Examples
    train: Examples | None = None
    validation: Examples | None = None
    preprocess: str = "none"
    image: int | None = None
    sorted_by_name: bool = False
    folders: list[str] | None = None
    seeded_test: bool = False
