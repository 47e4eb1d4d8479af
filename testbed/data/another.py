"""Images of another data set, read as a model's own are: for models whose data set has test images only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from testbed.core.errors import UsageError
from testbed.data.dataset import Dataset, Split
from testbed.data.registry import load

_COMPARED = 32


def training_images(dataset: Dataset, name: str, root: str | None = None) -> Split:
    """The training images of data set ``name`` (under ``root``); its test images if it has no others.

    They are resized and normalised as those of ``dataset``, the model's own. Raises UsageError for a data set that is not
    there, or has another number of channels.
    """
    return _as_own(dataset, _loaded(dataset, name, root), name)


def with_training_images(dataset: Dataset, name: str, root: str | None = None) -> Dataset:
    """The model's own data set with the images that are not for testing replaced by those of data set ``name``.

    Raises UsageError as ``training_images`` does, for other classes, and where they are the model's test images.
    """
    other = _loaded(dataset, name, root)
    if other.classes != dataset.classes and sorted(other.classes) == sorted(dataset.classes):
        other = load(
            name, root=root, image=dataset.image, seed=dataset.seed, classes=tuple(dataset.classes)
        )  # another order
    if other.classes != dataset.classes:
        raise UsageError(
            f"data set {name!r} has other classes ({len(other.classes)}: {', '.join(other.classes[:3])}, ...) than"
            f" {dataset.name!r} ({len(dataset.classes)}: {', '.join(dataset.classes[:3])}, ...)"
        )
    train = _as_own(dataset, other, name)
    if _share_images(train, dataset.test):
        raise UsageError(f"data set {name!r} holds the model's own test images; name one with others")
    validation = replace(other.validation, preprocess=dataset.preprocess)
    return replace(dataset, train=train, validation=validation)


def _loaded(dataset: Dataset, name: str, root: str | None) -> Dataset:
    return load(name, root=root, image=dataset.image, seed=dataset.seed)


def _as_own(dataset: Dataset, other: Dataset, name: str) -> Split:
    if other.channels != dataset.channels:
        raise UsageError(
            f"the model's images have {dataset.channels} channel(s) and those of {name!r} {other.channels}; name images of"
            " its own kind"
        )
    return replace(other.train if len(other.train) else other.test, preprocess=dataset.preprocess)


def _share_images(split: Split, test: Split) -> bool:
    """Has any of some images of the same id the same pixels, too?"""
    both = sorted(set(split.ids) & set(test.ids))
    some = both[:: max(1, len(both) // _COMPARED)][:_COMPARED]
    return any(np.array_equal(split.pixels(split.position(name)), test.pixels(test.position(name))) for name in some)
