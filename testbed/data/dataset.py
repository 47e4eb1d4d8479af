"""What a data set is, here: named images with labels, split three ways, read in batches and never all at once.

A loader returns a ``Collection`` (images as stored); ``testbed.data.registry.load`` makes a ``Dataset`` (model input).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from testbed.core.errors import TestbedError, UsageError
from testbed.data.preprocess import Floats, Preprocess


class Images(Protocol):
    """Stored images by row: (H, W) or (H, W, 3); uint8, or float32 in [0, 1]."""

    def __len__(self) -> int: ...

    def pixels(self, row: int) -> np.ndarray: ...

    def content(self, row: int) -> bytes:
        """The bytes that stand for the image in a content hash."""
        ...


class ArrayImages:
    """Images held in memory: (n, H, W) or (n, H, W, 3), uint8 or float32."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def pixels(self, row: int) -> np.ndarray:
        return self.array[row]

    def content(self, row: int) -> bytes:
        return np.ascontiguousarray(self.array[row]).tobytes()


# what Pillow's decoders raise on a bad file
_DECODING_FAULTS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class FileImages:
    """Image files, decoded as RGB when read; only the paths are held."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def pixels(self, row: int) -> np.ndarray:
        path = self.paths[row]
        try:
            with Image.open(path) as image:
                return np.asarray(image.convert("RGB"))
        except _DECODING_FAULTS as error:
            why = "is missing" if isinstance(error, FileNotFoundError) else "cannot be decoded"
            raise TestbedError(f"image {path} {why}: replace the file or take it out of the folder") from error

    def content(self, row: int) -> bytes:
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
        """Ids are ``name/00000``, the number being the row, padded so that they sort."""
        digits = max(4, len(str(len(images) - 1)))
        return cls([f"{name}/{row:0{digits}d}" for row in range(len(images))], labels, ArrayImages(images))


@dataclass(frozen=True, eq=False)
class Collection:
    """What a loader returns. Without ``validation``, a seeded part of ``train`` becomes it; without ``train``, both are
    empty. ``image`` is the side of the model input in pixels, unless the caller asks for another."""

    classes: list[str]
    test: Examples
    train: Examples | None = None
    validation: Examples | None = None
    preprocess: str = "none"
    image: int | None = None


@dataclass(frozen=True, eq=False)
class Split:
    """Some rows of a collection, as model input. Position i of the split is image ``ids[i]`` with ``labels[i]``."""

    examples: Examples
    rows: np.ndarray
    image: int
    preprocess: Preprocess
    ids: list[str] = field(init=False)
    labels: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        labels = self.examples.labels[self.rows]
        labels.flags.writeable = False
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "ids", [self.examples.ids[row] for row in self.rows])

    def __len__(self) -> int:
        return len(self.rows)

    def pixels(self, position: int) -> np.ndarray:
        """As stored: (H, W) or (H, W, 3); uint8, or float32 in [0, 1]. Raises TestbedError naming a bad file."""
        return self.examples.images.pixels(int(self.rows[position]))

    def fitted(self, positions: slice | Sequence[int] | np.ndarray) -> np.ndarray:
        """(b, S, S) or (b, S, S, 3): resized and cropped, not normalised; what augmentations start from."""
        rows = self.rows[positions if isinstance(positions, slice) else np.asarray(positions, np.int64)]
        images = [self.preprocess.fitted(self.examples.images.pixels(int(row)), self.image) for row in rows]
        if images:
            return np.stack(images)
        return np.empty((0, self.image, self.image, len(self.preprocess.mean)), np.float32)

    def batch(self, positions: slice | Sequence[int] | np.ndarray) -> np.ndarray:
        """Normalised model input, float32 (b, C, S, S). Reads these images only."""
        return self.preprocess.normalised(self.fitted(positions))

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(images, labels) in order, ``size`` at a time; the last may be smaller."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield self.batch(part), self.labels[part]

    def position(self, image_id: str) -> int:
        """Raises UsageError for an id that is not in the split."""
        if image_id not in self._positions:
            example = f", for example {self.ids[0]!r}" if self.ids else ""
            raise UsageError(f"no image {image_id!r} in this split; its {len(self)} ids are the data set's{example}")
        return self._positions[image_id]

    def subset(self, positions: slice | Sequence[int] | np.ndarray) -> Split:
        picked = positions if isinstance(positions, slice) else np.asarray(positions, np.int64)
        return replace(self, rows=self.rows[picked])

    def sha256(self) -> str:
        """Content hash of ids, labels and stored images (of files: their bytes), in order. Computed once."""
        return self._sha256

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {image_id: position for position, image_id in enumerate(self.ids)}

    @cached_property
    def _sha256(self) -> str:
        digest = hashlib.sha256()
        for image_id, label, row in zip(self.ids, self.labels, self.rows, strict=True):
            content = self.examples.images.content(int(row))
            digest.update(f"{image_id}\0{label}\0{len(content)}\0".encode())
            digest.update(content)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images of ``channels`` x ``image`` x ``image`` in three splits that share no image. ``train`` and ``validation``
    may be empty (a test-only data set)."""

    name: str
    classes: list[str]
    channels: int
    image: int
    train: Split
    validation: Split
    test: Split
    preprocess: Preprocess
    seed: int

    @property
    def mean(self) -> Floats:
        """One number per channel."""
        return self._per_channel(self.preprocess.mean)

    @property
    def std(self) -> Floats:
        """One number per channel."""
        return self._per_channel(self.preprocess.std)

    def describe(self) -> dict[str, Any]:
        """JSON-ready; all that decides the model input but the images themselves (``Split.sha256``)."""
        return {
            "name": self.name,
            "classes": self.classes,
            "channels": self.channels,
            "image": self.image,
            "images": {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)},
            "preprocess": self.preprocess.describe(),
            "seed": self.seed,
        }

    def _per_channel(self, values: Floats) -> Floats:
        return values if len(values) == self.channels else values * self.channels
