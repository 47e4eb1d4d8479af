"""A plain file protected on some images, and held against itself on others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, numpy_helper

from testbed.core.arrays import Float32s
from testbed.core.errors import TestbedError, UsageError
from testbed.core.folder.files import sha256_bytes
from testbed.data import Dataset, Split
from testbed.export.calibration import TRAIN, calibration_split
from testbed.export.precision import Calibration as QuantisationSettings
from testbed.instrument.quantised import FLOATS
from testbed.protect.build import Protected, protect
from testbed.protect.contract import CalibrationSet, ProtectionPass
from testbed.protect.ensure import Ensured, ensure

_CHOICE = "protect"
"""What the choice of unseen images is seeded by."""
_TOGETHER = 32
_FIX = "name others with --calibration-data (for example imagefolder:PATH/train)"


@dataclass(frozen=True)
class MeasuredOn:
    """Engines and numbers of images. source: "train", or the data set that is measured on; judged: test images."""

    engines: tuple[str, ...]
    images: int
    source: str
    judged: int


@dataclass(frozen=True)
class JudgedFile:
    """A plain file, its data set (under ``root``) and, for messages, its name."""

    plain: ModelProto
    precision: str
    name: str
    dataset: Dataset
    root: str | None


def make_checked(
    file: JudgedFile,
    passes: tuple[ProtectionPass, ...],
    measured: MeasuredOn,
    notify: Callable[[str], None],
) -> tuple[Protected, Ensured]:
    """Protect a plain file on training images, and hold it against the plain one on others.

    Raises UsageError for images that cannot be measured on, TestbedError for NaN among weights, GateFailed for a file that
    does not keep what it promises.
    """
    check_weights(file.plain, file.name)
    test = file.dataset.test
    seen = _measured_split(file, measured)
    unseen = test.chosen(min(measured.judged, len(test)), file.dataset.seed, _CHOICE)
    calibration = CalibrationSet(seen.batch(slice(None)), measured.engines, file.precision)
    _check_finite(calibration.images, seen.ids)
    _check_unseen(calibration, unseen)
    notify(f"{file.precision}: measuring on {len(seen)} images")
    protected = protect(file.plain, passes, calibration, file.name)
    notify(f"{file.precision}: checking on {len(unseen)} others, on {', '.join(measured.engines)}")
    return protected, ensure(file.plain, protected, unseen, measured.engines, file.precision)


def check_weights(plain: ModelProto, name: str) -> None:
    """Raises TestbedError for a weight that holds NaN: whatever is measured with it is NaN, too."""
    for tensor in plain.graph.initializer:
        if tensor.data_type in FLOATS and np.isnan(numpy_helper.to_array(tensor).astype(np.float32)).any():
            raise TestbedError(f"{name}: weight {tensor.name!r} holds NaN; train or export the model again")


def _measured_split(file: JudgedFile, measured: MeasuredOn) -> Split:
    dataset = file.dataset
    if measured.source == TRAIN and not len(dataset.train):
        raise UsageError(
            f"bounds and thresholds are measured on training images, and data set {dataset.name!r} has test images only, which"
            f" the model is judged on; {_FIX}"
        )
    seen = calibration_split(dataset, QuantisationSettings(measured.images, source=measured.source), file.root)
    if measured.source != TRAIN and _share_files(seen, dataset.test):
        raise UsageError(
            f"bounds and thresholds would be measured on test images of {dataset.name!r}, which campaigns evaluate; {_FIX}"
        )
    return seen


def _share_files(seen: Split, test: Split) -> bool:
    """Whether any image is stored byte for byte in both."""
    known = {sha256_bytes(seen.examples.images.content(int(row))) for row in seen.rows}
    return any(sha256_bytes(test.examples.images.content(int(row))) in known for row in test.rows)


def _check_finite(images: Float32s, ids: list[str]) -> None:
    broken = np.flatnonzero(~np.isfinite(images).reshape(len(images), -1).all(axis=1))
    if len(broken):
        raise UsageError(f"image {ids[broken[0]]!r} holds NaN or infinity: nothing can be measured on it; take it out")


def _check_unseen(calibration: CalibrationSet, unseen: Split) -> None:
    """Raises UsageError where an image that the result is judged on was calibrated on, or holds NaN."""
    seen = {sha256_bytes(image.tobytes()) for image in calibration.images}
    for number, (images, _) in enumerate(unseen.batches(_TOGETHER)):
        _check_finite(images, unseen.ids[number * _TOGETHER :])
        if any(sha256_bytes(image.tobytes()) in seen for image in images):
            raise UsageError(f"bounds and thresholds would be measured on images that the model is judged on; {_FIX}")
