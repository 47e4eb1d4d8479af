"""The training images that int8 is calibrated on: the same ones for an exported file and for a campaign's."""

from __future__ import annotations

from testbed.analysis.choice import CALIBRATION
from testbed.core.errors import UsageError
from testbed.data import Dataset, Split
from testbed.export.precision import Calibration


def calibration_split(dataset: Dataset, calibration: Calibration, other: Dataset | None = None) -> Split:
    """A random choice of ``calibration.images`` training images, all classes in proportion, seeded by the data set's seed;
    all of them where there are fewer.

    other: where the images are taken from, if not from ``dataset``, the model's own; its test images if it has no others.
    Raises UsageError where there are none (a test-only data set).
    """
    split = dataset.train
    if other is not None:
        split = other.train if len(other.train) else other.test
    if not len(split):
        raise UsageError(
            f"int8 is calibrated on training images, and data set {dataset.name!r} has none; name them with"
            " --calibration-data, for example imagefolder:PATH/train"
        )
    return split.chosen(min(calibration.images, len(split)), dataset.seed, CALIBRATION)
