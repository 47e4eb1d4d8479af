"""The training images that int8 is calibrated on: the same ones for an exported file and for a campaign's."""

from __future__ import annotations

from testbed.analysis.outputs.choice import CALIBRATION
from testbed.core.errors import UsageError
from testbed.data import Dataset, Split
from testbed.data.another import training_images
from testbed.export.precision import Calibration

TRAIN = "train"  # a calibration's source: the training images of the model's own data set


def calibration_split(dataset: Dataset, calibration: Calibration, root: str | None = None) -> Split:
    """A random choice of ``calibration.images`` training images, all classes in proportion, seeded by the data set's seed;
    all of them where there are fewer.

    dataset: the model's own. They are its training images or, where ``calibration.source`` names another data set (under
    ``root``), that one's; its test images if it has no others. Either way they are read as the model's own are. Raises
    UsageError where there are none (a test-only data set), and for another number of channels.
    """
    split = dataset.train if calibration.source == TRAIN else training_images(dataset, calibration.source, root)
    if not len(split):
        raise UsageError(
            f"int8 is calibrated on training images, and data set {dataset.name!r} has none; name them with"
            " --calibration-data (in a spec: engine.calibration_data), for example imagefolder:PATH/train"
        )
    return split.chosen(min(calibration.images, len(split)), dataset.seed, CALIBRATION)
