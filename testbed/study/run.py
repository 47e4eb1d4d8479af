"""A study in its folder: trained variant by variant, resumed where it was interrupted, then written down.

runs/VARIANT/seed-N/    a model's run folder each
study.json, study.csv   scores with intervals; study.png: the same as a picture
RESULTS                 {variant: test accuracy in per cent}, under the name of the published file
curves.csv, curves.png  loss and accuracy of every epoch of every training
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from testbed.core.folder.files import csv_text, write_json, write_text
from testbed.core.folder.runfolder import RunFolder, current_argv
from testbed.study.figures import short, write_curves_picture, write_scores_picture
from testbed.study.plan import StudyPlan, VariantPlan
from testbed.study.results import CONFIDENCE, SeedScore, StudyReport, VariantScore, differences_of
from testbed.train.curves import read_csv
from testbed.train.record import Callback, EpochRecord
from testbed.train.runs import CURVES, TrainingFacts, TrainingPlan, train_run

KIND, STAGE, COMMAND = "study", "study", "testbed study"
REPORT, TABLE, PICTURE = "study.json", "study.csv", "study.png"
STUDY_CURVES, STUDY_CURVES_PICTURE = "curves.csv", "curves.png"

EpochsBySeed = dict[str, dict[int, list[EpochRecord]]]
"""Variant -> seed -> epochs."""
Begun = Callable[[str, int, int], None]
"""Told of each training: variant, seed, and how many trainings came before."""


def run_study(
    plan: StudyPlan,
    path: Path,
    *,
    threads: int = 1,
    device: str = "cpu",
    loggers: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
    begun: Begun | None = None,
    progress: bool = True,
) -> StudyReport:
    """Trains what the folder lacks, looks at the test images once per training, and writes the report.

    Raises UsageError when the folder holds another study, StaleArtefact when its files were changed, and as ``train_run``.
    """
    folder = RunFolder.claimed(path, KIND, plan.spec.name, plan.identity(), current_argv())
    with folder.locked():
        folder.save()
        scores: dict[str, list[SeedScore]] = {}
        for number, (planned, seed, training) in enumerate(plan.trainings()):
            if begun:
                begun(planned.variant.name, seed, number)
            facts = train_run(
                training,
                path / planned.folder(seed),
                threads=threads,
                device=device,
                callbacks=callbacks,
                loggers=loggers,
                progress=progress,
            )
            scores.setdefault(planned.variant.name, []).append(_score(planned, seed, training, facts))
        report = _report(plan, scores)
        files = [REPORT, TABLE, PICTURE, plan.spec.results, STUDY_CURVES, STUDY_CURVES_PICTURE]
        inputs = {"scores": [asdict(variant) for variant in report.variants]}
        folder.stage(STAGE, inputs, files, lambda: _write(plan, path, report), command=COMMAND)
    return report


def _score(planned: VariantPlan, seed: int, training: TrainingPlan, facts: TrainingFacts) -> SeedScore:
    # a study's training has an epoch or more, and validation images to select it by
    assert facts.test_accuracy is not None
    assert facts.validation_accuracy is not None
    assert facts.seconds is not None
    return SeedScore.of(
        seed,
        test_accuracy=facts.test_accuracy,
        test_images=len(training.dataset.test),
        validation_accuracy=facts.validation_accuracy,
        best_epoch=facts.best_epoch,
        epochs=facts.epochs,
        seconds=facts.seconds,
        folder=planned.folder(seed).as_posix(),
    )


def _report(plan: StudyPlan, scores: dict[str, list[SeedScore]]) -> StudyReport:
    variants = tuple(
        VariantScore.of(
            planned.variant.name,
            scores[planned.variant.name],
            planned.trainings[0].parameters,
            planned.variant.published,
        )
        for planned in plan.variants
    )
    first = plan.variants[0].trainings[0]
    return StudyReport(
        plan.spec.name,
        plan.spec.about,
        first.dataset.name,
        plan.spec.preset,
        first.recipe.name,
        plan.spec.epochs,
        len(first.dataset.train),
        len(first.dataset.validation),
        len(first.dataset.test),
        plan.seeds,
        CONFIDENCE,
        plan.is_published_setting,
        variants,
        differences_of(variants),
    )


def _write(plan: StudyPlan, path: Path, report: StudyReport) -> None:
    curves: EpochsBySeed = {
        planned.variant.name: {seed: read_csv(path / planned.folder(seed) / CURVES) for seed in plan.seeds}
        for planned in plan.variants
    }
    write_json(path / REPORT, asdict(report))
    write_json(path / plan.spec.results, report.test_accuracies)
    _write_scores(path / TABLE, report)
    write_scores_picture(path / PICTURE, report)
    _write_curves(path / STUDY_CURVES, curves)
    write_curves_picture(path / STUDY_CURVES_PICTURE, curves, f"study {report.study} on {short(report.dataset)}")


def _write_scores(path: Path, report: StudyReport) -> None:
    """A row per training, with its variant's parameters."""
    rows = [
        {"variant": variant.name, "parameters": variant.parameters, **asdict(score)}
        for variant in report.variants
        for score in variant.scores
    ]
    write_text(path, csv_text(rows))


def _write_curves(path: Path, curves: EpochsBySeed) -> None:
    rows = [
        {"variant": name, "seed": seed, **record.to_json()}
        for name, by_seed in curves.items()
        for seed, records in by_seed.items()
        for record in records
    ]
    write_text(path, csv_text(rows))
