"""Are a spec's images prepared, and its classes ordered, as the model's own files say? What the spec states is followed."""

from __future__ import annotations

import logging
from pathlib import Path

from testbed.campaign.spec.campaign import CampaignSpec, DataSpec
from testbed.core.errors import UsageError
from testbed.data import Dataset
from testbed.data.classes.order import classes_beside
from testbed.data.preprocess.stated import preprocess_asked, preprocess_from
from testbed.data.preprocess.steps import Preprocess
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
    """The same for a user's own file, beside which a library's configuration may lie (``folder``)."""
    if asked.preprocess is None and (file := preprocessing_described(folder)) is not None:
        _check_preprocess(dataset, preprocess_from(file), str(file))
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
