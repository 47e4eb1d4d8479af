"""What a data set is, here: named images with labels, split three ways, read in batches and never all at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

import numpy as np
from pydantic import JsonValue

from testbed.analysis.outputs.choice import TRAIN_IMAGES, VALIDATION_IMAGES, choose
from testbed.core.errors import UsageError
from testbed.data.collection import Examples
from testbed.data.preprocess.steps import PerChannel, Preprocess

Positions = slice | Sequence[int] | np.ndarray


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
        """Pixels as stored: (H, W) or (H, W, 3); uint8, or float32 in [0, 1]. Raises TestbedError naming a bad file."""
        return self.examples.images.pixels(int(self.rows[position]))

    def fitted(self, positions: Positions) -> np.ndarray:
        """(b, S, S) or (b, S, S, 3): resized and cropped, not normalised; what augmentations start from."""
        rows = self.rows[positions if isinstance(positions, slice) else np.asarray(positions, np.int64)]
        images = [self._fitted(int(row)) for row in rows]
        if len({image.dtype for image in images}) > 1:  # 8-bit files beside 16-bit ones
            images = [image / np.float32(255) if image.dtype == np.uint8 else image for image in images]
        if images:
            return np.stack(images)
        return np.empty((0, self.image, self.image, len(self.preprocess.mean)), np.float32)

    def batch(self, positions: Positions) -> np.ndarray:
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

    def subset(self, positions: Positions) -> Split:
        """The split of these positions only, in their order."""
        picked = positions if isinstance(positions, slice) else np.asarray(positions, np.int64)
        return replace(self, rows=self.rows[picked])

    def chosen(self, images: int, seed: int, purpose: str) -> Split:
        """Chooses so many images of the split, in its order: a seeded random choice with the classes in proportion
        (`choose`)."""
        return self.subset(choose(self.ids, self.labels, images, seed, purpose))

    def sha256(self) -> str:
        """Content hash of ids, labels and stored images (of files: their bytes), in order. Computed once."""
        return self._sha256

    def _fitted(self, row: int) -> np.ndarray:
        try:
            return self.preprocess.fitted(self.examples.images.pixels(row), self.image)
        except UsageError as error:
            raise UsageError(f"image {self.examples.ids[row]!r}: {error}") from error

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


@dataclass(frozen=True)
class SplitSizes:
    """Numbers of images."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class DatasetDescription:
    """What a data set is, for reports and manifests. preprocess: as `Preprocess.describe` has it."""

    name: str
    classes: list[str]
    channels: int
    image: int
    images: SplitSizes
    preprocess: dict[str, JsonValue]
    seed: int

    def to_json(self) -> dict[str, JsonValue]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images of ``channels`` x ``image`` x ``image`` in three splits that share no image. ``train`` and ``validation``
    may be empty (a test-only data set). ``seeded_test``: ``seed`` chose the test images, too."""

    name: str
    classes: list[str]
    channels: int
    image: int
    train: Split
    validation: Split
    test: Split
    preprocess: Preprocess
    seed: int
    seeded_test: bool = False

    @property
    def mean(self) -> PerChannel:
        """One number per channel."""
        return self._per_channel(self.preprocess.mean)

    @property
    def std(self) -> PerChannel:
        """One number per channel."""
        return self._per_channel(self.preprocess.std)

    def with_train_images(self, wanted: int) -> Dataset:
        """Chooses ``wanted`` training images, and validation images in the same proportion: a seeded random choice with
        the classes in proportion, each present. The test images stay.

        Raises UsageError for more than there are, and for fewer than one of each class.
        """
        have = len(self.train)
        if wanted > have:
            raise UsageError(f"{wanted:,} training images are asked for, data set {self.name!r} has {have:,}")
        least = len(np.unique(self.train.labels))
        if wanted < least:
            raise UsageError(f"{wanted} training images are too few for {least} classes; ask for {least} or more")
        validation = min(len(self.validation), max(least, round(len(self.validation) * wanted / have)))
        return replace(
            self,
            train=self.train.chosen(wanted, self.seed, TRAIN_IMAGES),
            validation=self.validation.chosen(validation, self.seed, VALIDATION_IMAGES),
        )

    def describe(self) -> DatasetDescription:
        """All that decides the model input but the images themselves (``Split.sha256``)."""
        return DatasetDescription(
            self.name,
            self.classes,
            self.channels,
            self.image,
            SplitSizes(len(self.train), len(self.validation), len(self.test)),
            self.preprocess.describe(),
            self.seed,
        )

    def _per_channel(self, values: PerChannel) -> PerChannel:
        return values if len(values) == self.channels else values * self.channels
