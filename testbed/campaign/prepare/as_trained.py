"""Are a spec's images prepared, and its classes ordered, as the model's own files say? What the spec states is followed.

And does a user's own ONNX file fit the images?
"""

from __future__ import annotations

import logging
from pathlib import Path

from onnx import ModelProto

from testbed.campaign.spec.campaign import CampaignSpec, DataSpec
from testbed.core.errors import UsageError
from testbed.data import Dataset
from testbed.data.classes.order import ONLY_SOME, classes_beside
from testbed.data.preprocess.stated import preprocess_asked, preprocess_from
from testbed.data.preprocess.steps import PIXELS, PREPROCESS, Preprocess
from testbed.instrument.shapes import fixed_batch, input_shape, measured_shapes
from testbed.models.importers import preprocessing_described
from testbed.models.runs import DataSource

log = logging.getLogger(__name__)


def check_like_model_run(asked: DataSpec, dataset: Dataset, source: DataSource | None) -> None:
    """Raises UsageError where a trained model's folder has a preprocessing or an order of classes, the spec states none,
    and the data set's own is another."""
    if source is None:
        return
    if source.preprocess is not None and asked.preprocess is None:
        _check_preprocess(dataset, preprocess_asked(source.preprocess), "the model's folder")
    if isinstance(source.classes, tuple) and asked.classes is None:
        _check_classes(dataset, list(source.classes), "the model's folder")


def check_like_library(asked: DataSpec, dataset: Dataset, folder: Path) -> None:
    """The same for a user's own file, beside which a library's configuration may lie (``folder``). Warns of images that are
    not normalised where nothing says so."""
    if asked.preprocess is None and (file := preprocessing_described(folder)) is not None:
        _check_preprocess(dataset, preprocess_from(file), str(file))
    elif asked.preprocess is None and dataset.preprocess.name == "none":
        log.warning(
            "data: preprocess is not stated, and no library's configuration lies beside the file: images are fed as %s; most"
            ' models are trained on normalised ones: state data.preprocess, "none" where this is meant',
            dataset.preprocess.one_line(dataset.image),
        )
    names = classes_beside(folder)
    if asked.classes is None and names is not None and sorted(names) == sorted(dataset.classes):
        _check_classes(dataset, names, str(folder / "config.json"))


def _check_preprocess(dataset: Dataset, theirs: Preprocess, where: str) -> None:
    if not theirs.alike(dataset.preprocess, dataset.image):
        raise UsageError(
            f"data.preprocess is not stated: {dataset.name} has {dataset.preprocess.one_line(dataset.image)}; {where} has"
            f" {theirs.one_line(dataset.image)}; state the one that is meant, a preset's name or a file"
        )


def _check_classes(dataset: Dataset, theirs: list[str], where: str) -> None:
    ours = dataset.classes
    if theirs == ours:
        return
    if len(theirs) != len(ours):
        differ = f"{dataset.name} has {len(ours)}, and {where} has {len(theirs)}"
    else:
        at = next(number for number, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
        differ = f"of {dataset.name} class {at} is {ours[at]!r}, and {where} has {theirs[at]!r} there"
    raise UsageError(f"data.classes is not stated: {differ}; state the order that is meant: a file, natural or text")


def warn_of_split(spec: CampaignSpec, dataset: Dataset) -> None:
    """Warn of test images that an ONNX file may have been trained on: it does not say which draw it was trained without."""
    if dataset.seeded_test and spec.seed and "seed" not in spec.model.training:
        log.warning(
            "data: the test images of %s are a draw by seed %d, the campaign's; a file trained with another seed has seen"
            " some of them. Name its seed: model.training = { seed = N }",
            dataset.name,
            spec.seed,
        )


def check_pixels(dataset: Dataset, file: str) -> None:
    """Raises UsageError where images that the file takes as pixels would be something else."""
    own, wanted = dataset.preprocess, PREPROCESS[PIXELS]
    if (own.mean, own.std, own.scale) != (wanted.mean, wanted.std, wanted.scale):
        raise UsageError(
            f"{file} takes pixels from 0 to 255 and normalises them itself, but the data is preprocessed"
            f" ({own.one_line(dataset.image)}); set mean = [0], std = [1], scale = 1, or leave data.preprocess out"
        )


def check_fit(proto: ModelProto, dataset: Dataset, file: str) -> None:
    """Raises UsageError for outputs other than logits (B, K), or another number of channels or classes."""
    outputs = [value.name for value in proto.graph.output]
    images = fixed_batch(proto) or 2
    rows, *rest = measured_shapes(proto, outputs, images)[outputs[0]]
    if rows != images or len(rest) != 1:
        axes = ", ".join(("B" if rows == images else str(rows), *map(str, rest)))
        raise UsageError(f"{file}: its output {outputs[0]!r} is ({axes}); a campaign needs logits (B, classes)")
    own = (input_shape(proto)[0], rest[0])
    wanted = (dataset.channels, len(dataset.classes))
    for name, have, want in zip(("channels", "classes"), own, wanted, strict=True):
        if have != want:
            raise UsageError(
                f"{file} has {have} {name} but data set {dataset.name!r} has {want}; choose another file or data set"
                + (f"; {ONLY_SOME}" if name == "classes" and have > want else "")
            )
