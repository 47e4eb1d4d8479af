"""The fault lens over a finished campaign: its stored rows, a sample of its faults looked at again, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from testbed.campaign.files import Files
from testbed.campaign.run import Run
from testbed.core.arrays import Float32s, Int64s
from testbed.core.errors import UsageError
from testbed.core.site import Where
from testbed.golden.arrays import read_array
from testbed.models.runs import open_model_run
from testbed.sensitivity.campaign_lens.faults import read_stored_faults
from testbed.sensitivity.campaign_lens.prediction import RESAMPLES, band_rates, campaign_rate, predictions, ranks_of
from testbed.sensitivity.campaign_lens.record import (
    LensModel,
    LensPlan,
    LensPlanModel,
    LensRecord,
    SampledGroup,
)
from testbed.sensitivity.campaign_lens.rows import BEHIND, LensRows, read_lens_rows
from testbed.sensitivity.campaign_lens.sample import GROUPS, LensSample, draw_sample
from testbed.sensitivity.campaign_lens.shares import PathShares
from testbed.sensitivity.campaign_lens.walk import FaultPath, LensWalker
from testbed.sensitivity.fault_lens import ABSORBED
from testbed.sensitivity.fault_subject import open_eager_campaign
from testbed.sensitivity.stored_fault import FLOATS, StoredFault, as_deployed

SAMPLE = 500
VERSION = 1
DEFINITIONS = {
    "absorbed": f"what the head reads deviates by less than {ABSORBED:g} (relative, L2) from some state on to the end; a"
    " fault that changes no state is absorbed in its own block",
    "depth": "blocks after the fault's own until it is absorbed; 0 is its own block",
    "taken over": "the head says another class in the end, or none, beside a NaN",
    "repaired": "the head would have said another class after some block, and says the golden one from a later one on",
    "sample": "faults are drawn by stored outcome, about as many of each, and weighed back to the campaign's population;"
    " intervals are of both draws, the campaign's and this one",
    "rank": "how many classes come before the true one in what the head reads of the fault's first state, without the"
    " fault; all stored rows of the campaign count, not only the sample",
    "auc": "probability that of two faults the harmful one has the higher rank; 0.5 says nothing. Intervals are of resampled"
    " images; an interval that holds 0.5 leaves open whether the rank predicts anything",
    "auc alike": "the same, of pairs of faults in one block and one class of bits: depth and bits explain nothing of it",
}

ProgressOf = Callable[[int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class LensSettings:
    """What to look at. size: faults of each fault model; where, op: only these."""

    size: int = SAMPLE
    seed: int = 0
    where: Where | None = None
    op: str | None = None


@dataclass(frozen=True, eq=False)
class LensFault:
    """A fault that was looked at, and what it did. weight: share of the population that it stands for."""

    fault: StoredFault
    kind: str
    bit_class: str
    weight: float
    path: FaultPath


@dataclass(frozen=True, eq=False)
class CampaignLens:
    """What was measured, and every fault that was looked at."""

    record: LensRecord
    faults: tuple[LensFault, ...]


def plan_lens(path: Path, settings: LensSettings) -> LensPlan:
    """Say what would be looked at; nothing is run. Raises as `measure_lens`."""
    with open_eager_campaign(path) as run:
        _check_words(run)
        parts = [
            (rows, draw_sample(rows, settings.size, settings.seed))
            for rows in read_lens_rows(run, settings.where, settings.op)
        ]
        images = np.unique(np.concatenate([rows.image[rows.entry != BEHIND] for rows, _ in parts]))
        models = [
            LensPlanModel(
                where=rows.model.where,
                op=rows.model.op,
                pattern=rows.model.pattern,
                rows=len(rows),
                behind=sample.behind,
                sample=_sampled_groups(sample),
            )
            for rows, sample in parts
        ]
        return LensPlan(name=run.spec.name, seed=settings.seed, images=len(images), models=models)


def measure_lens(path: Path, settings: LensSettings, progress: ProgressOf) -> CampaignLens:
    """Look at a sample of a campaign's faults.

    progress: opens a bar of so many images and faults. Raises UsageError for a folder without a campaign of a model of the
    testbed, for words that are integers, and where no fault is left; StaleArtefact for a campaign that is not finished.
    """
    with open_eager_campaign(path) as run:
        _check_words(run)
        rows_of_models = read_lens_rows(run, settings.where, settings.op)
        samples = [draw_sample(rows, settings.size, settings.seed) for rows in rows_of_models]
        faults = [read_stored_faults(run, sample.rows) for sample in samples]
        walker = LensWalker(as_deployed(open_model_run(path).model))
        golden, paths = _walk(run, walker, rows_of_models, samples, faults, progress)
        models = [
            _model(rows, sample, looked_at, golden, walker, run.spec.confidence, settings.seed)
            for rows, sample, looked_at in zip(rows_of_models, samples, paths, strict=True)
        ]
        record = LensRecord(
            name=run.spec.name,
            version=VERSION,
            confidence=run.spec.confidence,
            seed=settings.seed,
            size=settings.size,
            absorbed_below=ABSORBED,
            resamples=RESAMPLES,
            classes=walker.projection.classes,
            states=walker.names,
            definitions=DEFINITIONS,
            models=models,
        )
    return CampaignLens(record, tuple(_looked_at(samples, faults, paths)))


def _check_words(run: Run) -> None:
    if (precision := run.spec.engine.precision) not in FLOATS:
        raise UsageError(
            f"{run.path} is a campaign of {precision}: the inside of a fault is looked at in the eager model, which has"
            " floating-point words only; use a campaign of engine.precision fp32, fp16 or bf16"
        )


def _walk(
    run: Run,
    walker: LensWalker,
    rows_of_models: Sequence[LensRows],
    samples: Sequence[LensSample],
    faults: Sequence[Sequence[StoredFault]],
    progress: ProgressOf,
) -> tuple[Int64s, list[list[FaultPath]]]:
    """((images, states) golden ranks of the true class, paths of each sample's faults): one image's states at a time."""
    images = run.workplace.images
    pixels = read_array(run.folder / Files("model").inputs)
    used = np.unique(np.concatenate([rows.image[rows.entry != BEHIND] for rows in rows_of_models]))
    ranks = np.full((len(images), len(walker.names)), -1, np.int64)
    paths: list[dict[int, FaultPath]] = [{} for _ in samples]
    with progress(sum(map(len, faults)) + len(used)) as advance:
        for image in used.tolist():
            pixels_of_image: Float32s = np.array(pixels[image], np.float32)
            golden = walker.golden_run(pixels_of_image, int(images.labels[image]))
            ranks[image] = golden.ranks
            advance(1)
            for sample, looked_at, of_sample in zip(samples, faults, paths, strict=True):
                for number in np.flatnonzero(sample.rows.image == image).tolist():
                    entry = int(sample.rows.entry[number])
                    lens = walker.lens(golden, looked_at[number], entry)
                    of_sample[number] = FaultPath.of(lens, entry, walker.projection.classes)
                    advance(1)
    return ranks, [[of_sample[number] for number in range(len(of_sample))] for of_sample in paths]


def _model(
    rows: LensRows,
    sample: LensSample,
    paths: Sequence[FaultPath],
    golden: Int64s,
    walker: LensWalker,
    confidence: float,
    seed: int,
) -> LensModel:
    ranks = ranks_of(rows, golden)
    top1 = np.array([path.top1 for path in paths], np.int64)
    comparable = sample.rows.top1 >= 0
    shares = PathShares(sample.rows, sample.design, paths, walker.names, confidence)
    return LensModel(
        target=rows.model.target,
        where=rows.model.where,
        op=rows.model.op,
        pattern=rows.model.pattern,
        scope=rows.model.scope,
        rows=len(rows),
        behind=sample.behind,
        sample=_sampled_groups(sample),
        drawn=len(paths),
        compared=int(comparable.sum()),
        disagreements=int((comparable & (top1 != sample.rows.top1)).sum()),
        sdc1=campaign_rate(rows, "sdc1", confidence),
        outside=campaign_rate(rows, "outside", confidence),
        groups=shares.groups(),
        changes=shares.changes(),
        predictions=predictions(rows, ranks, confidence, seed),
        bands=band_rates(rows, ranks, walker.projection.classes, confidence),
    )


def _sampled_groups(sample: LensSample) -> list[SampledGroup]:
    numbers = zip(GROUPS, sample.candidates, sample.drawn, strict=True)
    return [SampledGroup(outcome=name, faults=faults, drawn=drawn) for name, faults, drawn in numbers]


def _looked_at(
    samples: Sequence[LensSample], faults: Sequence[Sequence[StoredFault]], paths: Sequence[Sequence[FaultPath]]
) -> list[LensFault]:
    return [
        LensFault(fault, str(kind), str(bit_class), float(weight), path)
        for sample, of_sample, of_paths in zip(samples, faults, paths, strict=True)
        for fault, kind, bit_class, weight, path in zip(
            of_sample, sample.rows.kind, sample.rows.bit_class, sample.design.weight, of_paths, strict=True
        )
    ]
