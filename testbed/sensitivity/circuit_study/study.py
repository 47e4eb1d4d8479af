"""``testbed circuits``: scores a model's components, measures how faithful the circuits of each score are, lists edges."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from testbed.analysis.outputs.choice import TEST_IMAGES
from testbed.core.errors import UsageError
from testbed.core.words.nearest import unknown
from testbed.data import Dataset
from testbed.golden.recording import no_progress
from testbed.models.runs import ModelRun, open_model_run
from testbed.models.vit import ViT
from testbed.sensitivity.circuit_study.artefacts import write_study
from testbed.sensitivity.circuit_study.curves import CurveSettings, circuit_count, measure_curves
from testbed.sensitivity.circuit_study.records import CircuitMethod, CircuitStudy, EdgeScore
from testbed.sensitivity.circuits.ablation import Replacements
from testbed.sensitivity.circuits.acdc import acdc
from testbed.sensitivity.circuits.analysis_set import AnalysisSet
from testbed.sensitivity.circuits.components import Component, components
from testbed.sensitivity.circuits.eap import Attribution, eap
from testbed.sensitivity.circuits.faithfulness import (
    SHARES,
    TASK_METRICS,
    CircuitTask,
    TaskMetric,
    circuit_sizes,
)
from testbed.sensitivity.rank.images import analysis_set, images_of, scored_on
from testbed.sensitivity.rank.settings import ScoreSettings, SettingValues

CountedProgress = Callable[[int], AbstractContextManager[Callable[[int], None]]]
METHODS: tuple[CircuitMethod, ...] = ("acdc", "eap", "eap-ig")


@dataclass(frozen=True)
class CircuitRequest:
    """What is asked. over: test images that circuits are measured on, a random choice by class; orders: random ones;
    shares: sizes of circuits, of all components; curves, edges: what is wanted."""

    methods: tuple[CircuitMethod, ...] = METHODS
    kinds: tuple[str, ...] = ("head", "chunk")
    settings: ScoreSettings = field(default_factory=ScoreSettings)
    metric: TaskMetric = "logit_difference"
    over: int = 256
    shares: tuple[float, ...] = SHARES
    orders: int = 10
    curves: bool = True
    edges: bool = False

    def check(self, model: ViT) -> list[Component]:
        """The components. Raises UsageError for what does not go together, before anything is computed."""
        for method in self.methods:
            if method not in METHODS:
                raise UsageError(unknown("method", method, METHODS))
        if not self.methods or not (self.curves or self.edges):
            raise UsageError("name a score, and curves or edges")
        if "block" in self.kinds or {"chunk", "neuron"} <= {*self.kinds}:
            raise UsageError("circuits are of parts that do not overlap: heads, and chunks or neurons")
        if self.metric not in TASK_METRICS:
            raise UsageError(unknown("metric", self.metric, TASK_METRICS))
        if self.over < 2 or self.orders < 1:
            raise UsageError("curves need two images or more, and one random order or more")
        if self.edges and not {"eap", "eap-ig"} & {*self.methods}:
            raise UsageError("edges are scored by eap and eap-ig; name one of them")
        if self.edges and model.config.norm_order != "pre":
            raise UsageError(
                "edges need a residual stream that is a sum, and a post-norm model has none; its components have scores"
            )
        if self.settings.loss == "kl" and "eap" in self.methods:
            raise UsageError(
                "loss 'kl' has no gradient on clean images, where eap takes it; leave eap out, or another loss"
            )
        if self.settings.corrupt == "masked" and self.settings.masks is None:
            raise UsageError("corruption 'masked' needs masks of the images: --masks DIR, or --masks imagenet-s")
        parts = components(model.config, self.kinds, self.settings.chunks)
        circuit_sizes(len(parts), self.shares)
        if len(parts) < 2:
            raise UsageError(f"the model has {len(parts)} such components; a circuit is some of two or more")
        return parts

    def curve_settings(self, parts: int) -> CurveSettings:
        """Sizes of ``parts`` components, orders and seed."""
        return CurveSettings(circuit_sizes(parts, self.shares), self.orders, self.settings.seed)


@dataclass(frozen=True)
class CircuitPlan:
    """What a study would do. circuits: that are measured; passes: images through the model for them."""

    run: str
    data: str
    components: int
    analysis_images: int
    images: int
    sizes: tuple[int, ...]
    circuits: int
    passes: int


def plan_circuits(path: Path, request: CircuitRequest) -> CircuitPlan:
    """What `study_circuits` would do. Raises UsageError as it does."""
    subject = _ScoredModel(path, request)
    curves = request.curve_settings(len(subject.parts))
    circuits = circuit_count(len(request.methods), curves) if request.curves else 0
    images = len(subject.evaluation()) if request.curves else 0
    used = len(subject.analysis())
    return CircuitPlan(
        str(path), subject.dataset.name, len(subject.parts), used, images, curves.sizes, circuits, circuits * images
    )


def study_circuits(
    path: Path,
    request: CircuitRequest,
    to: Path | None = None,
    *,
    notify: Callable[[str], None] = lambda _: None,
    progress: CountedProgress | None = None,
) -> CircuitStudy:
    """Score the components of a run folder's model on analysis images, and measure circuits on test images.

    to: folder for circuits.json, CSV files and the figure. Raises UsageError for a folder without model or data, for what
    does not go together, and for masks that are missing or of another size than their images.
    """
    torch.set_num_threads(1)
    subject = _ScoredModel(path, request)
    images, test_images = subject.analysis(), subject.evaluation() if request.curves else None
    scores: dict[CircuitMethod, dict[str, float]] = {}
    edges: list[EdgeScore] = []
    for method in request.methods:
        notify(f"{method}: scoring {len(subject.parts)} components on {len(images)} images")
        scores[method], scored = subject.score(method, images)
        edges += scored
    study = CircuitStudy(
        run=str(path),
        data=subject.dataset.name,
        kinds=request.kinds,
        components=len(subject.parts),
        images=0,
        metric=request.metric,
        confidence=request.curve_settings(len(subject.parts)).confidence,
        settings=_settings(request, len(images)),
        scores=scores,
        edges=tuple(edges),
    )
    if test_images is not None:
        study = subject.with_curves(study, images, test_images, progress)
    return study if to is None else write_study(to, study)


class _ScoredModel:
    """A run folder's model with its components and images."""

    def __init__(self, path: Path, request: CircuitRequest) -> None:
        self.run: ModelRun = open_model_run(path)
        self.model, self.request = self.run.model, request
        self.parts = request.check(self.model)
        self.dataset: Dataset = scored_on(self.run, request.settings)
        self._root = self.run.data.root if self.run.data else None

    def analysis(self) -> AnalysisSet:
        return analysis_set(self.dataset, self.request.settings, self._root)

    def score(self, method: CircuitMethod, images: AnalysisSet) -> tuple[dict[str, float], list[EdgeScore]]:
        """Component -> score, the higher the more it matters; and of EAP its edges, the largest first."""
        settings = self.request.settings
        if method == "acdc":
            circuit = acdc(
                self.model,
                images,
                self.parts,
                settings.tau,
                rule=settings.rule,
                ablation=settings.ablation,
                seed=settings.seed,
                corrupt=settings.corrupt,
                snr_db=settings.snr_db,
            )
            return {part.name: circuit.scores[part.name] for part in self.parts}, []
        attribution = self._attribution(images, settings.steps if method == "eap-ig" else 0)
        ordered = sorted(attribution.edges.items(), key=lambda edge: -abs(edge[1]))
        edges = [EdgeScore(method, source, reader, score) for (source, reader), score in ordered]
        return {name: abs(score) for name, score in attribution.nodes.items()}, edges

    def _attribution(self, images: AnalysisSet, steps: int) -> Attribution:
        settings = self.request.settings
        return eap(
            self.model,
            images,
            self.parts,
            loss=settings.loss,
            corrupt=settings.corrupt,
            seed=settings.seed,
            snr_db=settings.snr_db,
            steps=steps,
            edges=self.request.edges,
        )

    def evaluation(self) -> AnalysisSet:
        """Test images that circuits are measured on, with masks where something is replaced by what they leave."""
        settings, test = self.request.settings, self.dataset.test
        part = test.chosen(min(self.request.over, len(test)), self.dataset.seed, TEST_IMAGES)
        masked = settings if settings.ablation == "resample" else replace(settings, masks=None)
        return images_of(part, np.arange(len(part)), masked, self._root)

    def with_curves(
        self, study: CircuitStudy, analysis: AnalysisSet, images: AnalysisSet, progress: CountedProgress | None
    ) -> CircuitStudy:
        """The study with its curves, measured on ``images``."""
        request, settings = self.request, self.request.settings
        replaced = Replacements.of(
            self.model,
            analysis if settings.ablation == "mean" else images,  # a mean that the measured images have no part in
            settings.ablation,
            settings.seed,
            corrupt=settings.corrupt,
            snr_db=settings.snr_db,
        )
        task = CircuitTask.of(
            self.model, images, request.metric, replaced, corrupt=settings.corrupt, seed=settings.seed
        )
        curves = request.curve_settings(len(self.parts))
        orders: dict[str, list[Component]] = {
            by: sorted(self.parts, key=lambda p: -scores[p.name]) for by, scores in study.scores.items()
        }
        total = circuit_count(len(orders), curves)
        with progress(total) if progress else no_progress() as advance:
            measured = measure_curves(task, self.parts, orders, curves, advance)
        return replace(study, images=len(images), curves=measured)


def _settings(request: CircuitRequest, images: int) -> SettingValues:
    """Those that the scores rest on, and the ablation of the curves."""
    used: SettingValues = {}
    for method in request.methods:
        used |= request.settings.used_by(method)
    if request.curves:
        used |= {"ablation": request.settings.ablation, "random_orders": request.orders}
    if used.get("ablation") == "resample":
        used |= {"corrupt": request.settings.corrupt, "snr_db": request.settings.snr_db}
    return used | {"images": images}
