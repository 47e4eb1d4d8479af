"""A ranking of a run folder's model, and what a campaign says to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import JsonValue

from testbed.campaign.folder.claim import recorded_spec
from testbed.core.errors import UsageError
from testbed.core.folder.runfolder import RunFolder
from testbed.data import Dataset
from testbed.models.runs import open_model_run
from testbed.sensitivity.circuits.components import Component, ComponentKind, components
from testbed.sensitivity.rank.catalogue import METHODS, ScoreMethod
from testbed.sensitivity.rank.images import images_used, scored_on
from testbed.sensitivity.rank.measured import members, rates, read_rows
from testbed.sensitivity.rank.protection import ProtectionCurve, ideal, protection_curve, random_order
from testbed.sensitivity.rank.scores import scores
from testbed.sensitivity.rank.settings import ScoreSettings, SettingValues
from testbed.sensitivity.rank.validate import MeasuredRates, validate
from testbed.sensitivity.rank.verdict import Validation, correct_for_comparisons

RankedBy = ScoreMethod | Literal["measured"]


@dataclass(frozen=True)
class RankedComponent:
    """The higher the ``score``, the more it matters. sites: what of a campaign belongs to the component."""

    component: str
    score: float
    sites: list[str]


@dataclass(frozen=True)
class Ranking:
    """Components with their scores, in the order of the forward pass. settings: what the scores rest on."""

    by: RankedBy
    kind: ComponentKind
    scores: list[RankedComponent]
    settings: SettingValues

    def to_json(self) -> dict[str, JsonValue]:
        return asdict(self)


@dataclass(frozen=True)
class MeasuredComponent:
    """A component's SDC-1 rate in a campaign, with its interval. n: rows; share_of_faults: of all faults."""

    component: str
    rate: float
    low: float
    high: float
    n: int
    share_of_faults: float


@dataclass(frozen=True)
class CheckedRanking:
    """Scores held against a campaign. by, scores: of each method; left_out: method -> why it scores nothing here;
    protection: a curve per method, the measured ideal and a random order."""

    campaign: str
    kind: ComponentKind
    confidence: float
    by: dict[ScoreMethod, Validation]
    left_out: dict[ScoreMethod, str]
    measured: list[MeasuredComponent]
    scores: dict[ScoreMethod, dict[str, float]]
    protection: list[ProtectionCurve]
    settings: SettingValues

    def to_json(self) -> dict[str, JsonValue]:
        return asdict(self) | {"protection": [curve.to_json() for curve in self.protection]}


def rank(
    path: Path, by: RankedBy, kind: ComponentKind, settings: ScoreSettings, campaign: Path | None = None
) -> Ranking:
    """Ranks the components. by: a method of `scores`, or "measured": the SDC-1 rate in ``campaign``. Raises UsageError
    for what does not go."""
    run = open_model_run(path)
    parts = components(run.model.config, [kind], settings.chunks)
    if by == "measured":
        source = campaign_of(path, campaign)
        rows = read_rows(source)
        measured = rates(members(rows, parts, run.model.config), rows)
        ranked = [
            RankedComponent(part.name, float(rate), sites_of(part))
            for part, rate in zip(parts, measured, strict=True)
            if np.isfinite(rate)
        ]
        if not ranked:
            raise UsageError(f"{source} struck none of the model's {kind}s")
        return Ranking(by, kind, ranked, {"campaign": str(source)})
    dataset = scored_on(run, settings)
    by_name = {part.name: part for part in parts}
    ranked = [
        RankedComponent(scored.component, scored.score, sites_of(by_name[scored.component]))
        for scored in scores(run.model, dataset, by, kind, settings)
    ]
    return Ranking(by, kind, ranked, settings.used_by(by) | {"images": images_used(dataset, by, settings)})


def check(
    path: Path,
    campaign: Path,
    kind: ComponentKind,
    settings: ScoreSettings,
    methods: Sequence[ScoreMethod] = METHODS,
    confidence: float = 0.95,
) -> CheckedRanking:
    """Holds every method's scores against the campaign's rates; verdicts are corrected for the number of methods.

    A method that cannot score this kind, or this model, is left out with the reason. Raises UsageError for a campaign of
    another model.
    """
    run = open_model_run(path)
    source = campaign_of(path, campaign)
    rows, config = read_rows(source), run.model.config
    truth = MeasuredRates(rows, components(config, [kind], settings.chunks), config, settings.seed)
    validations: dict[ScoreMethod, Validation] = {}
    given: dict[ScoreMethod, dict[str, float]] = {}
    left_out: dict[ScoreMethod, str] = {}
    dataset = scored_on(run, settings)
    for by in methods:
        try:
            given[by] = {score.component: score.score for score in scores(run.model, dataset, by, kind, settings)}
            validations[by] = validate(by, given[by], truth, confidence=confidence, seed=settings.seed)
        except UsageError as error:
            left_out[by] = str(error)
    if not validations:
        raise UsageError(f"no method could score the {kind}s: {next(iter(left_out.values()))}")
    return CheckedRanking(
        campaign=str(source),
        kind=kind,
        confidence=confidence,
        by=correct_for_comparisons(validations, confidence),
        left_out=left_out,
        measured=_measured(truth, confidence),
        scores=given,
        protection=_curves(truth, given),
        settings=settings.to_json() | _images_used(dataset, settings, validations),
    )


def _images_used(dataset: Dataset, settings: ScoreSettings, methods: Iterable[ScoreMethod]) -> SettingValues:
    """How many images the scores rest on; fuzziness has some of its own."""
    return {"fuzziness_images" if by == "fuzziness" else "images": images_used(dataset, by, settings) for by in methods}


def campaign_of(path: Path, campaign: Path | None) -> Path:
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


def _measured(truth: MeasuredRates, confidence: float) -> list[MeasuredComponent]:
    low, high = truth.intervals(confidence)
    return [
        MeasuredComponent(
            part.name,
            float(truth.rates[number]),
            float(low[number]),
            float(high[number]),
            int(truth.n[number]),
            float(truth.share[number]),
        )
        for number, part in enumerate(truth.parts)
    ]


def _curves(truth: MeasuredRates, given: Mapping[ScoreMethod, Mapping[str, float]]) -> list[ProtectionCurve]:
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


def sites_of(part: Component) -> list[str]:
    """The campaign's sites that the component is (a slice of), as patterns for a spec's ``sites``."""
    block = f"block.{part.block}"
    if part.kind == "block":
        return [f"{block}.*"]
    if part.kind == "head":
        return [f"{block}.attn.{name}" for name in ("q", "k", "v", "scores", "softmax", "context")]
    return [f"{block}.mlp.fc1", f"{block}.mlp.gelu"]
