"""The images that scores are measured on: none that an accuracy is measured on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from testbed.core.errors import UsageError
from testbed.data import Dataset, Split
from testbed.data.another import with_training_images
from testbed.golden.source import dataset_of
from testbed.models.runs import ModelRun
from testbed.sensitivity.circuits.analysis_set import AnalysisSet
from testbed.sensitivity.class_space.masks import mask_reader, object_shares
from testbed.sensitivity.rank.catalogue import ScoreMethod
from testbed.sensitivity.rank.settings import ScoreSettings


@dataclass(frozen=True)
class ScoredImages:
    """The images of a data set that scores may look at, read when a score first asks for them."""

    dataset: Dataset
    settings: ScoreSettings

    @cached_property
    def analysis(self) -> AnalysisSet:
        """The analysis set. Raises UsageError as `analysis_set`."""
        return analysis_set(self.dataset, self.settings)

    @property
    def test(self) -> Split:
        """The whole test split, which fuzziness is of."""
        return self.dataset.test


def analysis_set(dataset: Dataset, settings: ScoreSettings, root: str | None = None) -> AnalysisSet:
    """The images of ``settings``. root: of ImageNet-S's masks. Raises UsageError where there are no images that the test
    split does not hold, or fewer than classes, and for masks that do not fit."""
    split = dataset.validation if len(dataset.validation) else dataset.train
    if not len(split):
        raise UsageError(
            f"data set {dataset.name!r} has test images only, and scores are measured on others: name a data set"
            " that holds others: --data imagefolder:DIR/train"
        )
    rows = _by_turns(split, settings.images, settings.seed)
    if len(rows) < len(dataset.classes):
        raise UsageError(f"{len(rows)} images for {len(dataset.classes)} classes; ask for one per class at least")
    return images_of(split, rows, settings, root)


def images_of(split: Split, rows: NDArray[np.int64], settings: ScoreSettings, root: str | None = None) -> AnalysisSet:
    """These rows of a split, with their masks where ``settings`` corrupts by them. Raises UsageError for masks that are
    missing, or not of their image's size."""
    images = AnalysisSet.of(split.batch(rows), split.labels[rows], [split.ids[row] for row in rows.tolist()])
    if settings.corrupt != "masked" or settings.masks is None:
        return images
    reader = mask_reader(settings.masks, root)
    return images.with_objects(np.stack([object_shares(reader, split, row) for row in rows.tolist()]))


def scored_on(run: ModelRun, settings: ScoreSettings) -> Dataset:
    """The model's data set, with ``settings.data`` in place of what is not for testing. Raises UsageError as both do."""
    dataset = dataset_of(run)
    if settings.data is None:
        return dataset
    return with_training_images(dataset, settings.data, run.data.root if run.data else None)


def images_used(dataset: Dataset, by: ScoreMethod, settings: ScoreSettings) -> int:
    """How many images the method's scores rest on: no more than there are; fuzziness is of the whole test split."""
    if by == "fuzziness":
        return len(dataset.test)
    return min(settings.images, len(dataset.validation) or len(dataset.train))


def _by_turns(split: Split, wanted: int, seed: int) -> NDArray[np.int64]:
    """Rows, one of each class after the other, random within a class; in data set order."""
    rng = np.random.default_rng(seed)
    queues = [rng.permutation(np.flatnonzero(split.labels == label)) for label in np.unique(split.labels)]
    turns = [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]
    return np.sort(np.array(turns[:wanted], np.int64))
