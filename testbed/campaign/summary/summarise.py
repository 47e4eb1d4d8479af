"""The summary of a table of results: counts per stratum, and population-weighted rates with intervals.

A rate never mixes fault models: every one is of one target, one place, one operation, pattern and scope. "sdc1" is a
changed top-1, "outside" any output outside the tolerance (or none at all), "nonfinite" a NaN or infinity in the output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from testbed.analysis.domains import Estimate
from testbed.analysis.stats import rounded_share
from testbed.campaign.described import DescribedData
from testbed.campaign.facts import ExecuteFacts, TuneFacts
from testbed.campaign.files import PLAN, TIERS
from testbed.campaign.folder.claim import recorded_spec
from testbed.campaign.folder.images import read_tiers
from testbed.campaign.gate_facts import GateFacts
from testbed.campaign.prepare.stages import Preparation
from testbed.campaign.summary.exposure import contributions
from testbed.campaign.summary.image_choice import images_each, images_field
from testbed.campaign.summary.protection import CheckedModel, ProtectionRecord, checked_model
from testbed.campaign.summary.rates import RATE_DIMENSIONS, ModelRates, RateGroup, fault_models
from testbed.campaign.summary.record import (
    EvaluatedRows,
    Failures,
    FaultyEngine,
    Marginal,
    RateRecord,
    RowShare,
    StageSeconds,
    StratumRecord,
    Summary,
    SummaryData,
    SummaryEngine,
    SummaryImages,
    SummaryModel,
    SummaryTier,
    ToleranceRecord,
    load_summary,
)
from testbed.campaign.summary.tally import Tally, populations
from testbed.core.fault import FaultModel
from testbed.core.folder.runfolder import RunFolder
from testbed.core.folder.stage_facts import facts_of
from testbed.core.outcome import OUTCOMES, Outcome
from testbed.core.schema import SCHEMA_VERSION
from testbed.core.site import SiteTable, Where

SUMMARY = "summary.json"


class _FaultModelFields(TypedDict):
    """The fields of a record that say of which fault model it is. ``op``: its label."""

    target: str
    where: Where
    op: str
    pattern: str
    scope: str


def summarise(
    preparation: Preparation,
    engines: Sequence[FaultyEngine],
    results: str,
    plans: Sequence[str] = (PLAN,),
    *,
    tables: Mapping[str, SiteTable],
) -> Summary:
    """The summary of a finished campaign. results: file name of the rows; plans: of their faults; tables: the
    sites that were struck, by target."""
    spec, folder = preparation.spec, preparation.folder
    gates, execute = facts_of(folder, "gates", GateFacts), facts_of(folder, "execute", ExecuteFacts)
    tally = Tally.of(folder.path / results, checks=gates.alarms is not None)
    faults, population = populations([folder.path / plan for plan in plans])
    stages = folder.manifest["stages"]
    tuned = facts_of(folder, "tune", TuneFacts)
    strata: list[StratumRecord] = []
    marginals: list[Marginal] = []
    evaluation: list[EvaluatedRows] = []
    checked: list[CheckedModel] = []
    for rates in fault_models(tally, population, spec.confidence):
        has_classes = rates.model.target == "model"
        strata += _strata(rates, has_classes)
        formats = {site.name: site.format_name for site in tables.get(rates.model.target, ())}
        marginals += _marginals(rates, has_classes, formats)
        evaluation.append(_evaluation(rates))
        if gates.alarms is not None:
            checked.append(checked_model(rates, gates.alarms))
    main, described = engines[0], preparation.described
    return Summary(
        name=spec.name,
        schema_version=SCHEMA_VERSION,
        seed=spec.seed,
        faults=faults,
        rows=tally.rows,
        model=SummaryModel(
            **described.model.to_json(),
            test_accuracy=preparation.accuracy,
            test_images=described.data.images.test,
            no_better_than_guessing=preparation.guessing.is_guessing,
        ),
        data=_data(described.data),
        tiers=tiers_of(preparation),
        images=SummaryImages(named=len(preparation.images), classes=preparation.classes_of(None)),
        engine=SummaryEngine(
            backend=spec.engine.backend,
            hash=main.hash,
            deployment_id=main.deployment_id,
            precision=spec.engine.precision,
            batch=tuned.batch,
            threads=tuned.threads,
        ),
        engines=list(engines),
        zero_fault=gates.zero_fault,
        drift=gates.drift,
        parity=gates.parity,
        notes=gates.notes,
        left_out=[left_out for gate in gates.weights.values() for left_out in gate.left_out],
        tolerance=ToleranceRecord(
            atol=list(spec.tolerance.per_tier(len(spec.tiers.edges))),
            rtol=spec.tolerance.rtol,
            rtol_grid=list(spec.tolerance.rtol_grid),
        ),
        confidence=spec.confidence,
        detector=spec.detector,
        strata=strata,
        marginals=marginals,
        evaluation=evaluation,
        exposure=contributions(spec, tables, tally, population),
        **_protection(preparation, gates, checked),
        timing=[StageSeconds(stage=name, seconds=record["seconds"]) for name, record in stages.items()],
        wall_seconds=execute.wall_seconds,
        engine_seconds=execute.engine_seconds,
        worker_seconds=execute.worker_seconds,
        scaling_efficiency=_share(execute.engine_seconds, execute.worker_seconds),
        failures=Failures(
            crashes=execute.crashes,
            hangs=execute.hangs,
            losses=execute.losses,
            blamed=execute.blamed,
            refused=execute.refused,
        ),
        stop=execute.stop,
        **images_field(preparation),
        evaluated_by=gates.evaluation,
        injections_per_second=round(execute.rows_this_process / max(execute.wall_seconds, 1e-9), 1),
        statement=_statement(preparation),
    )


class _ProtectionField(TypedDict, total=False):
    """The field that only a protected engine's summary has."""

    protection: ProtectionRecord


def _protection(preparation: Preparation, gates: GateFacts, checked: list[CheckedModel]) -> _ProtectionField:
    if gates.passes is None:
        return {}
    if gates.alarms is None:
        return {"protection": ProtectionRecord(passes=gates.passes)}
    on_detected = preparation.spec.protection.on_detected
    record = ProtectionRecord(passes=gates.passes, on_detected=on_detected, false_alarms=gates.alarms, models=checked)
    return {"protection": record}


def read_summary(path: Path) -> Summary:
    """The summary in a finished campaign's folder. Raises UsageError for a folder without a campaign, StaleArtefact for
    one that is not finished or was edited."""
    folder = RunFolder.existing(path)
    recorded_spec(folder)
    folder.verify("summary")
    return load_summary(folder / SUMMARY)


def _share(engine_seconds: float, worker_seconds: float) -> float | None:
    """Share of the workers' time that they spent in the engine; None where none of them had anything left to do."""
    return round(engine_seconds / worker_seconds, 4) if worker_seconds else None


def _marginals(rates: ModelRates, has_classes: bool, formats: Mapping[str, str]) -> Iterator[Marginal]:
    """Rates over everything, then by each dimension's values; by bit within each number format, which is told too.
    formats: of the words of each site."""
    groups: list[tuple[dict[str, Any], RateGroup]] = [({"by": "all", "value": None}, rates.over_all())]
    for by in RATE_DIMENSIONS:
        if by == "bit":
            by_bit = rates.by_bit(formats)
            groups += [({"by": by, "value": bit, "format": name or None}, group) for (name, bit), group in by_bit]
        else:
            groups += [({"by": by, "value": value}, group) for value, group in rates.by(by)]
    for of, group in groups:
        records: dict[str, RateRecord | None] = {measure: _rate_record(rate) for measure, rate in group.rates.items()}
        if not has_classes:
            records["sdc1"] = None
        some = group.rates["outside"]
        yield Marginal(**_named(rates.model), **of, faults=some.n_clusters, n=some.n_rows, rates=records)


def _strata(rates: ModelRates, has_classes: bool) -> Iterator[StratumRecord]:
    """Counts of the outcomes, and the rates, per tier, site and bit class."""
    counts = rates.outcomes_by_cell()
    outcomes = [outcome for outcome in OUTCOMES if rates.checked or outcome != Outcome.DETECTED]
    for cell, group in rates.cells():
        sdc1, outside = group.rates["sdc1"], group.rates["outside"]
        yield StratumRecord(
            **_named(rates.model),
            tier=cell.tier,
            site=cell.site,
            kind=cell.kind,
            bit_class=cell.bit_class,
            n=outside.n_rows,
            faults=outside.n_clusters,
            **{name: counts[cell][name] for name in (*outcomes, "nonfinite")},
            sdc1_rate=rounded_share(sdc1.rate) if has_classes else None,
            sdc1_low=rounded_share(sdc1.low) if has_classes else None,
            sdc1_high=rounded_share(sdc1.high) if has_classes else None,
            sdc1_high_95=rounded_share(sdc1.high_95) if has_classes else None,
            sdc1_high_99=rounded_share(sdc1.high_99) if has_classes else None,
            outside_rate=rounded_share(outside.rate),
            outside_low=rounded_share(outside.low),
            outside_high=rounded_share(outside.high),
            outside_high_95=rounded_share(outside.high_95),
            outside_high_99=rounded_share(outside.high_99),
        )


def _evaluation(rates: ModelRates) -> EvaluatedRows:
    """How the outputs were found, and what came to none that anybody could use: rows, and their share."""
    ways, dues = rates.evaluations(), rates.dues()
    rows = sum(ways.values())

    def shared(counts: Mapping[str, int]) -> dict[str, RowShare]:
        return {name: RowShare(rows=count, share=rounded_share(count / rows)) for name, count in counts.items()}

    return EvaluatedRows(**_named(rates.model), rows=rows, how=shared(ways), due=shared(dues))


def _named(model: FaultModel) -> _FaultModelFields:
    return {
        "target": model.target,
        "where": model.where,
        "op": model.label,
        "pattern": model.pattern,
        "scope": model.scope,
    }


def _rate_record(rate: Estimate) -> RateRecord:
    return RateRecord(
        rate=rounded_share(rate.rate),
        low=rounded_share(rate.low),
        high=rounded_share(rate.high),
        high_95=rounded_share(rate.high_95),
        high_99=rounded_share(rate.high_99),
    )


def _data(data: DescribedData) -> SummaryData:
    return SummaryData(
        name=data.name, classes=data.classes, preprocess=data.preprocess, preprocess_told=data.preprocess_told
    )


def tiers_of(preparation: Preparation) -> list[SummaryTier]:
    """The confidence tiers, with the images that were named of each."""
    spec, recorded = preparation.spec.tiers, read_tiers(preparation.folder / TIERS).tiers
    named = np.bincount(preparation.images.tiers, minlength=len(spec.images)).tolist()
    return [
        SummaryTier(
            tier=number,
            low=tier.low,
            high=tier.high,
            available=len(tier.images),
            images=have,
            **({"asked": wanted} if have < wanted else {}),
            thin=have < max(spec.thin, wanted),
            classes=preparation.classes_of(number),
        )
        for number, (tier, wanted, have) in enumerate(zip(recorded, spec.images, named, strict=True))
    ]


def _statement(preparation: Preparation) -> str:
    images, tiers = len(preparation.images), len(preparation.spec.tiers.edges)
    own = preparation.spec.model.onnx is not None
    return (
        f"Rates speak of the {images} named images in the run folder ({tiers} confidence tiers, correctly classified"
        " test images), of all elements and bits of the named sites, and of one fault model at a time; elements, bits"
        " and images weigh equally. They do not speak of other images."
        + "".join(f" {choice.sentence}" for choice in images_each(preparation))
    ) + (
        " The golden is the ONNX file's own, without a fault: nothing else vouches for what it computes." if own else ""
    )
