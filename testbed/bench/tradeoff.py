"""Accuracy, latency and vulnerability of several models, joined honestly: each number with the engine it was measured on.

Quality and latency are of the plain engine, SDC-1 of its instrumented twin; the two are joined by the deployed file
(deployment_id), and the drift between them is part of the row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from testbed.analysis.outputs.guessing import share_warning
from testbed.bench.latency import LatencyRow, Question, measure, plain_request
from testbed.bench.quality import Quality, quality
from testbed.campaign.folder.claim import recorded_spec
from testbed.campaign.summary.record import Summary, load_summary
from testbed.campaign.summary.summarise import SUMMARY
from testbed.core.errors import UsageError
from testbed.core.folder.runfolder import RunFolder
from testbed.engines.backends import check_engine
from testbed.engines.runner import EngineRequest, open_engine
from testbed.golden.deployment import ends_of
from testbed.golden.source import dataset_of
from testbed.models.runs import open_model_run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vulnerability:
    """SDC-1 rate of single flips in activations of the whole model, in the twin ``engine_hash``. drift: the largest deviation
    of the twin's outputs from the plain engine's, without a fault."""

    rate: float
    low: float
    high: float
    faults: int
    engine_hash: str
    drift_max_abs: float
    campaign: str


@dataclass(frozen=True)
class TradeoffEntry:
    """One model. latency: a row per batch size; pareto: not dominated in (accuracy, latency, SDC-1), or in the first two where
    no campaign is known of any model."""

    model: str
    deployment_id: str
    quality: Quality
    quality_engine: str
    latency: tuple[LatencyRow, ...]
    vulnerability: Vulnerability | None
    accuracy_per_ms: float
    pareto: bool


@dataclass(frozen=True)
class Tradeoff:
    """Models compared by accuracy, latency and SDC-1. entries in the order asked for; batch: the one that
    ``accuracy_per_ms``, Pareto front and recommendation rest on."""

    batch: int
    entries: tuple[TradeoffEntry, ...]
    recommended: str
    why: str


def tradeoff(
    models: Sequence[Path],
    campaigns: Sequence[Path],
    question: Question,
    allowed_drop: float = 0.01,
    notify: Callable[[str], None] = lambda _: None,
) -> Tradeoff:
    """Compares models by accuracy, latency and SDC-1. allowed_drop: of accuracy below the best model's, that a
    recommended model may have.

    Raises UsageError for a campaign of none of the models, or of another file of one of them.
    """
    check_engine(question.engine, question.precision)
    deployed = {str(path): _plain(path, question).deployment_id for path in models}
    known = _vulnerabilities(models, campaigns, deployed)  # before anything is timed
    rows = measure(models, question, models[0], notify)
    by_model = {str(path): tuple(row for row in rows if row.model == str(path)) for path in models}
    batch, measured = question.batches[0], []
    for path in models:
        notify(f"{path}: accuracy of the plain engine")
        judged, engine_hash, classes = _quality(path, question)
        if warning := share_warning(judged.top1, judged.images, classes):
            log.warning("%s: %s", path, warning)
        of_model = by_model[str(path)]
        measured.append((path, judged, engine_hash, of_model, known.get(str(path)), judged.top1 / of_model[0].p50_ms))
    front = pareto(
        [(q.top1, -of_model[0].p50_ms, *(() if v is None else (-v.rate,))) for _, q, _, of_model, v, _ in measured]
    )
    entries = tuple(
        TradeoffEntry(str(path), of_model[0].deployment_id, judged, engine_hash, of_model, hit, per_ms, best)
        for (path, judged, engine_hash, of_model, hit, per_ms), best in zip(measured, front, strict=True)
    )
    name, why = recommend(entries, allowed_drop)
    return Tradeoff(batch, entries, name, why)


def pareto(points: Sequence[tuple[float, ...]]) -> list[bool]:
    """Which points no other is at least as good as in everything and better in something. Higher is better.

    Points are compared in as many objectives as all of them have.
    """
    width = min(map(len, points))
    values = np.array([point[:width] for point in points])
    return [
        not any((other >= candidate).all() and (other > candidate).any() for other in values) for candidate in values
    ]


def recommend(entries: Sequence[TradeoffEntry], allowed_drop: float) -> tuple[str, str]:
    """The fastest of those whose accuracy is good enough; and the sentence that says why, with its numbers."""
    best = max(entries, key=lambda entry: entry.quality.top1)
    fitting = [entry for entry in entries if entry.quality.top1 >= best.quality.top1 - allowed_drop - 1e-12]
    chosen = min(fitting, key=lambda entry: entry.latency[0].p50_ms)
    ratio = chosen.latency[0].p50_ms / best.latency[0].p50_ms
    accuracy = f"{100 * chosen.quality.top1:.2f} % against {100 * best.quality.top1:.2f} %"
    why = (
        f"{chosen.model}: the lowest median latency at batch {chosen.latency[0].batch} among the {len(fitting)} of"
        f" {len(entries)} models within {100 * allowed_drop:g} points of the best accuracy ({accuracy}),"
        f" {ratio:.2f} of the most accurate model's time"
    )
    if chosen.vulnerability and best.vulnerability and chosen is not best:
        chosen_rate, best_rate = chosen.vulnerability, best.vulnerability
        apart = chosen_rate.low > best_rate.high or chosen_rate.high < best_rate.low
        why += f"; SDC-1 {_percent(chosen_rate)} against {_percent(best_rate)}, " + (
            "a difference" if apart else "no difference shown: the intervals overlap"
        )
    return chosen.model, why + "."


def _percent(vulnerability: Vulnerability) -> str:
    return f"{100 * vulnerability.rate:.2f} % [{100 * vulnerability.low:.2f}, {100 * vulnerability.high:.2f}]"


def _plain(path: Path, question: Question) -> EngineRequest:
    return plain_request(path, precision=question.precision, threads=question.threads)


def _quality(path: Path, question: Question) -> tuple[Quality, str, int]:
    request, dataset = _plain(path, question), dataset_of(open_model_run(path))
    feed, output = ends_of(request.onnx)
    parts: list[NDArray[np.float32]] = []
    with open_engine(question.engine, request) as runner:
        for images, _ in dataset.test.batches(64):
            parts.append(np.asarray(runner.run({feed: images})[output], np.float32))
        engine_hash = runner.info.hash
    labels = np.asarray(dataset.test.labels, np.int64)
    classes = list(map(str, dataset.classes))
    return quality(np.concatenate(parts), labels, classes), engine_hash, len(classes)


def _vulnerabilities(
    models: Sequence[Path], campaigns: Sequence[Path], deployed: dict[str, str]
) -> dict[str, Vulnerability]:
    of_file = {file: model for model, file in deployed.items()}  # a protected model has the weights of the plain one
    of_weights = {open_model_run(path).model_hash: str(path) for path in models}
    by_model = {}
    for path in campaigns:
        folder = RunFolder.existing(path)
        recorded_spec(folder)
        folder.verify("summary")
        summary = load_summary(folder / SUMMARY)
        model = of_file.get(summary.engine.deployment_id)
        if model is None:
            _refuse(path, of_weights.get(open_model_run(path).model_hash), summary.engine.deployment_id, deployed)
        by_model[model] = _of_summary(path, summary)
    return by_model


def _refuse(path: Path, model: str | None, file: str, deployed: Mapping[str, str]) -> NoReturn:
    """Raises UsageError for a campaign that is of none of the deployed files."""
    if model is None:
        raise UsageError(f"the campaign in {path} is of none of these models; run one on them: [model] run = DIR")
    raise UsageError(
        f"the campaign in {path} struck another file of {model} (deployed as {file}, here {deployed[model]}): another"
        " precision, export or protection; use the same --precision and versions, or name the protected model too"
    )


def _of_summary(path: Path, summary: Summary) -> Vulnerability:
    wanted = ("model", "activation", "flip", "all", "single", "inference")
    for marginal in summary.marginals:
        scope = marginal.scope or "inference"
        of = (marginal.target, marginal.where, marginal.op, marginal.by, marginal.pattern, scope)
        if of == wanted and (rate := marginal.rate("sdc1")):
            engine = next(e for e in summary.engines if (e.target, e.where) == ("model", "activation"))
            drift = summary.drift.max_abs_diff
            return Vulnerability(rate.rate, rate.low, rate.high, marginal.faults, engine.hash, drift, str(path))
    raise UsageError(f"the campaign in {path} struck no activation of the model with single flips")
