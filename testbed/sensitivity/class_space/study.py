"""The analysis in class space of a run folder's model: what is asked for, what it would take, and all results."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from testbed.analysis.outputs.choice import TEST_IMAGES
from testbed.core.errors import UsageError
from testbed.data import Dataset, Split
from testbed.data.another import with_training_images
from testbed.golden.recording import no_progress
from testbed.golden.reference import compute_device
from testbed.golden.source import dataset_of
from testbed.models.runs import ModelRun, open_model_run
from testbed.models.vit import ViT
from testbed.sensitivity.class_space.explain.curves import (
    DROPPED,
    ORDERS,
    PerturbationCurve,
    perturbation_curves,
)
from testbed.sensitivity.class_space.explain.relevance import explainers
from testbed.sensitivity.class_space.identifiability import Identifiability, IdentifiabilityObserver
from testbed.sensitivity.class_space.masks import PatchMasks, patch_masks
from testbed.sensitivity.class_space.memories import (
    KeyValueAgreement,
    KeyValueObserver,
    Memories,
    class_value_agreement,
    top_memories,
)
from testbed.sensitivity.class_space.perturbation import PerturbationEffect, measure_perturbations, perturbations
from testbed.sensitivity.class_space.probe import (
    ProbeAccuracy,
    ProbePosition,
    probe_layers,
    probe_passes,
    probe_positions,
    training_shots,
)
from testbed.sensitivity.class_space.projection import ClassProjection
from testbed.sensitivity.class_space.settings import (
    ANALYSES,
    Analysis,
    ClassSpacePlan,
    ClassSpaceSettings,
    PlannedAnalysis,
)
from testbed.sensitivity.class_space.stream import BlockObserver, batch_size, observe

log = logging.getLogger(__name__)

Advance = Callable[[int], None]


@dataclass(frozen=True)
class ClassSpaceStudy:
    """All results; None where an analysis was not asked for or is left out."""

    plan: ClassSpacePlan
    settings: ClassSpaceSettings
    identifiability: Identifiability | None
    random_weights: Identifiability | None
    memories: Memories | None
    perturbations: tuple[PerturbationEffect, ...] | None
    curves: tuple[PerturbationCurve, ...] | None
    probes: tuple[ProbeAccuracy, ...] | None


def study_class_space(
    path: Path,
    settings: ClassSpaceSettings,
    *,
    device: str = "cpu",
    progress: Callable[[int], AbstractContextManager[Advance]] | None = None,
) -> ClassSpaceStudy:
    """Measure what ``settings`` asks for. ``progress(total)`` is a context manager that yields a function to be told of
    images done. Raises UsageError for what the model, its data or the masks do not allow, StaleArtefact for an edited
    model."""
    target = compute_device(device)
    subject = StudySubject(open_model_run(path), settings)
    plan = subject.plan()
    for analysis, why in plan.left_out.items():
        log.warning("class space: %s is left out: %s", analysis, why)
    total = round(sum(planned.images * planned.passes for planned in plan.analyses))
    with progress(total) if progress else no_progress() as advance:
        subject.model.to(target)
        wanted = {planned.analysis for planned in plan.analyses}
        identifiability, random_weights, key_value = subject.identified(wanted, advance)
        memories = None if key_value is None else subject.memories(key_value)
        return ClassSpaceStudy(
            plan,
            settings,
            identifiability,
            random_weights,
            memories,
            subject.perturbed(advance) if "perturbation" in wanted else None,
            subject.explained(advance) if "explanation" in wanted else None,
            subject.probed(advance) if "probe" in wanted else None,
        )


def plan_class_space(path: Path, settings: ClassSpaceSettings) -> ClassSpacePlan:
    """What `study_class_space` would do; nothing is run. Raises as it does."""
    return StudySubject(open_model_run(path), settings).plan()


def random_weights_of(model: ViT, seed: int) -> ViT:
    """The same architecture as it is before training, on the model's device: PyTorch's own initialisation."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ViT(model.config).eval().to(next(model.parameters()).device)


class StudySubject:
    """A model with its images, checked before anything is run."""

    def __init__(self, run: ModelRun, settings: ClassSpaceSettings) -> None:
        self.run, self.settings = run, settings
        self.model = run.model
        ClassProjection.of(self.model)
        self.dataset = dataset_of(run)
        self.test = self._chosen(settings.images, TEST_IMAGES)
        labels = np.unique(self.test.labels)
        if len(labels) < 2:
            name = self.dataset.classes[int(labels[0])] if len(labels) else "none"
            raise UsageError(
                f"all {len(self.test)} images are of one class ({name}); class space tells classes apart: use images of two"
                " or more"
            )
        root = run.data.root if run.data else None
        config = self.model.config
        self.masks: PatchMasks | None = None if settings.masks is None else patch_masks(settings.masks, config, root)
        if self.masks is not None:
            self.masks.patches(self.test, 0)  # refuses masks that do not fit before anything is run

    def plan(self) -> ClassSpacePlan:
        planned: list[PlannedAnalysis] = []
        left_out: dict[str, str] = {}
        for analysis in ANALYSES if self.settings.analyses is None else self.settings.analyses:
            try:
                planned.append(self._planned(analysis))
            except UsageError as error:
                if self.settings.analyses is not None:
                    raise
                left_out[analysis] = str(error)
        names = tuple(self.dataset.classes)
        batch = batch_size(self.model.config)
        probed = any(entry.analysis == "probe" for entry in planned)
        positions = tuple(self._probe_positions()) if probed else ()
        path = str(self.run.folder.path)
        return ClassSpacePlan(path, self.dataset.name, names, batch, tuple(planned), left_out, positions)

    def identified(
        self, wanted: set[Analysis], advance: Advance
    ) -> tuple[Identifiability | None, Identifiability | None, tuple[KeyValueAgreement, ...] | None]:
        """Identifiability here and with random weights, and key-value agreement: one pass serves both."""
        settings, level = self.settings, self.settings.confidence
        watched = IdentifiabilityObserver(ClassProjection.of(self.model)) if "identifiability" in wanted else None
        keys = KeyValueObserver(self.model, settings.seed) if "memories" in wanted else None
        observers: list[BlockObserver] = [each for each in (watched, keys) if each is not None]
        if observers:
            observe(self.model, self.test, observers, masks=self.masks, advance=advance)
        if watched is None:
            return None, None, None if keys is None else keys.result(level)
        random_model = random_weights_of(self.model, settings.seed)
        baseline = IdentifiabilityObserver(ClassProjection.of(random_model))
        observe(random_model, self._baseline, [baseline], masks=self.masks, advance=advance)
        return watched.result(level), baseline.result(level), None if keys is None else keys.result(level)

    def memories(self, key_value: tuple[KeyValueAgreement, ...]) -> Memories:
        agreement = class_value_agreement(self.model, random_weights_of(self.model, self.settings.seed))
        return Memories(agreement, top_memories(self.model), key_value)

    def perturbed(self, advance: Advance) -> tuple[PerturbationEffect, ...]:
        level = self.settings.confidence
        return measure_perturbations(self.model, self.test, masks=self.masks, confidence=level, advance=advance)

    def explained(self, advance: Advance) -> tuple[PerturbationCurve, ...]:
        images, passes = self._explained_images(), self._explanation_passes()
        settings = self.settings
        return perturbation_curves(
            self.model,
            images,
            explained=settings.explained,
            seed=settings.seed,
            confidence=settings.confidence,
            advance=lambda done: advance(round(done * passes)),
        )

    def probed(self, advance: Advance) -> tuple[ProbeAccuracy, ...]:
        settings = self.settings
        return probe_layers(
            self.model,
            self._probe_training(),
            self._probe_test(),
            positions=self._probe_positions(),
            shots=settings.shots,
            confidence=settings.confidence,
            advance=advance,
        )

    def _planned(self, analysis: Analysis) -> PlannedAnalysis:
        n, config = len(self.test), self.model.config
        if analysis == "identifiability":
            return PlannedAnalysis(analysis, n, 1 + len(self._baseline) / n)
        if analysis == "memories":
            asked = self.settings.analyses
            shared = asked is None or "identifiability" in asked
            return PlannedAnalysis(analysis, n, 0 if shared else 1)
        if analysis == "perturbation":
            return PlannedAnalysis(analysis, n, len(perturbations(self.model, self.masks is not None)))
        if analysis == "explanation":
            if not any(config.heads):
                raise UsageError("the model has no attention in any block; there is none to explain by")
            return PlannedAnalysis(analysis, len(self._explained_images()), self._explanation_passes())
        passes = len(probe_passes(config, self._probe_positions()))
        training, test = len(self._probe_training()), len(self._probe_test())
        return PlannedAnalysis(analysis, test, passes * (1 + training / test))

    @property
    def _baseline(self) -> Split:
        wanted = min(self.settings.baseline_images, len(self.test))
        return self.test.chosen(wanted, self.dataset.seed, TEST_IMAGES)

    def _explained_images(self) -> Split:
        return self.test.chosen(min(self.settings.explain_images, len(self.test)), self.dataset.seed, TEST_IMAGES)

    def _explanation_passes(self) -> float:
        methods = len(explainers())
        return methods * len(ORDERS) * sum(1 - share for share in DROPPED) + 3 * methods

    def _probe_positions(self) -> list[ProbePosition]:
        return probe_positions(self.model.config, self.settings.positions, self.settings.seed)

    def _probe_test(self) -> Split:
        return self.test.chosen(min(self.settings.probe_images, len(self.test)), self.dataset.seed, TEST_IMAGES)

    def _probe_training(self) -> Split:
        settings, dataset = self.settings, self._with_training()
        split = dataset.train if len(dataset.train) else dataset.validation
        if not len(split):
            raise UsageError(
                f"data set {dataset.name!r} has test images only, and probes are fitted on others: name a data set that"
                " holds others: --data imagefolder:DIR/train"
            )
        return training_shots(split, settings.shots, len(dataset.classes), settings.seed)

    def _with_training(self) -> Dataset:
        if self.settings.data is None:
            return self.dataset
        return with_training_images(self.dataset, self.settings.data, self.run.data.root if self.run.data else None)

    def _chosen(self, images: int | None, purpose: str) -> Split:
        test = self.dataset.test
        return test if images is None else test.chosen(images, self.dataset.seed, purpose)
