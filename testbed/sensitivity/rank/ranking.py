"""A ranking of a run folder's model, and what a campaign says to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from testbed.campaign.folder.claim import recorded_spec
from testbed.core.errors import UsageError
from testbed.core.folder.places import data_name
from testbed.core.folder.runfolder import RunFolder
from testbed.data import Dataset
from testbed.models.runs import open_model_run
from testbed.sensitivity.circuits.components import Component, components
from testbed.sensitivity.rank.measured import members, rates, read_rows
from testbed.sensitivity.rank.protection import ProtectionCurve, ideal, protection_curve, random_order
from testbed.sensitivity.rank.scores import METHODS, ScoreSettings, images_used, scored_on, scores
from testbed.sensitivity.rank.validate import MeasuredRates, Validation, validate

MEASURED = "measured"
KINDS = ("block", "head", "chunk", "neuron")


@dataclass(frozen=True)
class Ranking:
    """Components with their scores. scores: (component, score) in the order of the forward pass; higher matters more.
    sites: what of the campaign belongs to each component. settings: what the scores rest on."""

    by: str
    kind: str
    scores: list[dict[str, Any]]
    settings: dict[str, Any]


def rank(path: Path, by: str, kind: str, settings: ScoreSettings, campaign: Path | None = None) -> Ranking:
    """Ranks the components. by: a method of `scores`, or "measured": the SDC-1 rate in ``campaign``. Raises UsageError
    for what does not go."""
    run = open_model_run(path)
    parts = components(run.model.config, [kind], settings.chunks)
    if by == MEASURED:
        source = _campaign_of(path, campaign)
        rows = read_rows(source)
        measured = rates(members(rows, parts, run.model.config), rows)
        ranked = [
            {"component": p.name, "score": float(r)} for p, r in zip(parts, measured, strict=True) if np.isfinite(r)
        ]
        if not ranked:
            raise UsageError(f"{source} struck none of the model's {kind}s")
        return Ranking(by, kind, _with_sites(ranked, parts), {"campaign": str(source)})
    dataset = scored_on(run, settings)
    values = scores(run.model, dataset, by, kind, settings)
    used = settings.used_by(by) | {"images": images_used(dataset, by, settings)}
    return Ranking(by, kind, _with_sites([asdict(value) for value in values], parts), used)


def check(
    path: Path,
    campaign: Path,
    kind: str,
    settings: ScoreSettings,
    methods: Sequence[str] = METHODS,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Every method's scores held against the campaign's rates; JSON-ready but for arrays.

    ``by``: method -> `Validation`; ``measured``: rate with interval, faults and share of each component; ``protection``:
    a curve per method, the measured ideal and random. A method that cannot score this kind, or this model, is left out
    with the reason. Raises UsageError for a campaign of another model.
    """
    run = open_model_run(path)
    source = _campaign_of(path, campaign)
    rows, config = read_rows(source), run.model.config
    truth = MeasuredRates(rows, components(config, [kind], settings.chunks), config, settings.seed)
    validations: dict[str, Validation] = {}
    given: dict[str, Mapping[str, float]] = {}
    left_out: dict[str, str] = {}
    dataset = scored_on(run, settings)
    for by in methods:
        try:
            given[by] = {score.component: score.score for score in scores(run.model, dataset, by, kind, settings)}
            validations[by] = validate(by, given[by], truth, confidence=confidence, seed=settings.seed)
        except UsageError as error:
            left_out[by] = str(error)
    if not validations:
        raise UsageError(f"no method could score the {kind}s: {next(iter(left_out.values()))}")
    return {
        "campaign": str(source),
        "kind": kind,
        "confidence": confidence,
        "by": validations,
        "left_out": left_out,
        "measured": _measured(truth, confidence),
        "scores": {by: dict(values) for by, values in given.items()},
        "protection": _curves(truth, given),
        "settings": _settings_to_json(settings) | _images_used(dataset, settings, validations),
    }


def _settings_to_json(settings: ScoreSettings) -> dict[str, Any]:
    record = asdict(settings)
    return record | {"data": None if settings.data is None else data_name(settings.data)}


def _images_used(dataset: Dataset, settings: ScoreSettings, methods: Iterable[str]) -> dict[str, int]:
    """How many images the scores rest on; fuzziness has some of its own."""
    return {"fuzziness_images" if by == "fuzziness" else "images": images_used(dataset, by, settings) for by in methods}


def _campaign_of(path: Path, campaign: Path | None) -> Path:
    """The campaign's folder, once it is known to be of this very model."""
    source = campaign or path
    folder = RunFolder.existing(source)
    recorded_spec(folder)
    campaign_hash, model_hash = open_model_run(source).model_hash, open_model_run(path).model_hash
    if campaign_hash != model_hash:
        raise UsageError(
            f"the campaign in {source} is of another model than {path}; run one on this: [model] run = {path}"
        )
    return source


def _measured(truth: MeasuredRates, confidence: float) -> list[dict[str, Any]]:
    low, high = truth.intervals(confidence)
    return [
        {
            "component": part.name,
            "rate": float(truth.rates[number]),
            "low": float(low[number]),
            "high": float(high[number]),
            "n": int(truth.n[number]),
            "share_of_faults": float(truth.share[number]),
        }
        for number, part in enumerate(truth.parts)
    ]


def _curves(truth: MeasuredRates, given: Mapping[str, Mapping[str, float]]) -> list[ProtectionCurve]:
    """Empty where no SDC-1 was measured at all."""
    contributions = truth.rates * truth.share
    if not contributions.sum() > 0:
        return []
    own = [
        protection_curve(by, np.array([values[part.name] for part in truth.parts]), contributions)
        for by, values in given.items()
        if all(part.name in values for part in truth.parts)
    ]
    return [ideal(contributions), *own, random_order(contributions)]


def _with_sites(records: list[dict[str, Any]], parts: Sequence[Component]) -> list[dict[str, Any]]:
    by_name = {part.name: part for part in parts}
    return [{**record, "sites": sites_of(by_name[record["component"]])} for record in records]


def sites_of(part: Component) -> list[str]:
    """The campaign's sites that the component is (a slice of), as patterns for a spec's ``sites``."""
    block = f"block.{part.block}"
    if part.kind == "block":
        return [f"{block}.*"]
    if part.kind == "head":
        return [f"{block}.attn.{name}" for name in ("q", "k", "v", "scores", "softmax", "context")]
    return [f"{block}.mlp.fc1", f"{block}.mlp.gelu"]
