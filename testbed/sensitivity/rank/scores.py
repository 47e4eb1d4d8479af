"""Scores of a run folder's model by each cheap method: component -> how much the model seems to need it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from testbed.core.errors import UsageError
from testbed.core.folder.places import data_name
from testbed.core.words.nearest import unknown
from testbed.data import Dataset, Split
from testbed.data.another import with_training_images
from testbed.golden.source import dataset_of
from testbed.models.runs import ModelRun
from testbed.models.vit import ViT
from testbed.sensitivity.circuits.ablation import Ablation
from testbed.sensitivity.circuits.acdc import PruningRule, acdc
from testbed.sensitivity.circuits.analysis_set import AnalysisSet, Corruption
from testbed.sensitivity.circuits.components import Component, ComponentKind, components
from testbed.sensitivity.circuits.eap import Loss, eap
from testbed.sensitivity.class_space.masks import mask_reader, object_shares
from testbed.sensitivity.fuzziness.layers import PIXELS, layer_fuzziness

ScoreMethod = Literal["acdc", "eap", "eap-ig", "fuzziness"]
METHODS: tuple[ScoreMethod, ...] = get_args(ScoreMethod)
SettingValues = dict[str, str | float | None]
"""Settings by name, for manifests and reports."""


@dataclass(frozen=True)
class ScoreSettings:
    """What scores rest on. images: of the validation split (the training split where there is none), chosen by the
    seed, classes in turn; of another data set's where ``data`` names one (testbed.data.another). masks: where the objects
    that ``corrupt`` "masked" takes out are, a folder or "imagenet-s".

    ACDC scores do not depend on ``tau`` where nothing is removed; it decides what later visits are measured against.
    """

    images: int = 256
    seed: int = 0
    chunks: int = 8
    tau: float = 0.05
    rule: PruningRule = "incremental"
    ablation: Ablation = "zero"
    loss: Loss = "task"
    corrupt: Corruption = "other_class"
    snr_db: float = 0.0
    steps: int = 5
    data: str | None = None
    masks: str | None = None

    def used_by(self, by: ScoreMethod) -> SettingValues:
        """Those that the method's scores depend on."""
        used: dict[str, tuple[str, ...]] = {"acdc": ("tau", "rule", "ablation"), "fuzziness": ()}
        names = used.get(by, ("loss", "corrupt", "snr_db", *(("steps",) if by == "eap-ig" else ())))
        named = (*names, *(() if self.data is None else ("data",)))
        if self.masks is not None and "corrupt" in names:
            named = (*named, "masks")
        return {name: self.to_json()[name] for name in ("images", "seed", "chunks", *named)}

    def to_json(self) -> SettingValues:
        values = asdict(self) | {"data": None if self.data is None else data_name(self.data)}
        return {name: value for name, value in values.items() if name != "masks" or value is not None}


@dataclass(frozen=True)
class ComponentScore:
    """``component``'s name; the higher the ``score``, the more it matters."""

    component: str
    score: float


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


def scores(
    model: ViT, dataset: Dataset, by: ScoreMethod, kind: ComponentKind, settings: ScoreSettings
) -> list[ComponentScore]:
    """Scores by "acdc", "eap", "eap-ig" or "fuzziness"; of every "block", "head", "chunk" or "neuron", forward order.

    acdc: the rise of the divergence (nats) when the component goes, visited from the output back. eap, eap-ig: the size
    of the summed effect of its edges; a block's is that of its parts' signed sum. fuzziness, of blocks only: by how much
    the block separates the classes, ln D before (of pixels, for the first) less ln D after. Raises UsageError for what a
    method does not score.
    """
    if by not in METHODS:
        raise UsageError(unknown("method", by, METHODS))
    torch.set_num_threads(1)
    if by == "fuzziness":
        return _by_fuzziness(model, dataset, kind)
    parts = components(model.config, [kind], settings.chunks)
    images = analysis_set(dataset, settings)
    if by == "acdc":
        effects = acdc(
            model, images, parts, settings.tau, rule=settings.rule, ablation=settings.ablation, seed=settings.seed
        ).scores
        return [ComponentScore(part.name, effects[part.name]) for part in parts]
    inner = components(model.config, ["head", "chunk"], 1) if kind == "block" else parts
    nodes = _attribution(model, images, inner, settings, settings.steps if by == "eap-ig" else 0)
    if kind == "block":
        summed = {part.name: sum(nodes[i.name] for i in inner if i.block == part.block) for part in parts}
        return [ComponentScore(name, abs(value)) for name, value in summed.items()]
    return [ComponentScore(part.name, abs(nodes[part.name])) for part in parts]


def _attribution(
    model: ViT, images: AnalysisSet, parts: Sequence[Component], settings: ScoreSettings, steps: int
) -> dict[str, float]:
    return eap(
        model,
        images,
        parts,
        loss=settings.loss,
        corrupt=settings.corrupt,
        seed=settings.seed,
        snr_db=settings.snr_db,
        steps=steps,
        edges=False,
    ).nodes


def _by_fuzziness(model: ViT, dataset: Dataset, kind: ComponentKind) -> list[ComponentScore]:
    if kind != "block":
        raise UsageError(f"fuzziness is of layers: it scores blocks, not each {kind}")
    levels = layer_fuzziness(model, dataset.test)
    before = levels[PIXELS]
    drops = []
    for part in components(model.config, ["block"]):
        after = levels[part.name]
        drop = float(np.log(before) - np.log(after)) if 0 < after < np.inf and 0 < before < np.inf else float("nan")
        drops.append(ComponentScore(part.name, drop))
        before = after
    if any(not np.isfinite(score.score) for score in drops):
        raise UsageError("a layer's classes do not vary, or are not apart at all: its fuzziness is 0 or infinite")
    return drops
