"""``testbed study``: train the variants of a design choice on several seeds, and compare them."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from testbed.cli.common import emit, example, json_option, say, say_epoch
from testbed.cli.options.data import classes_option, preprocess_option, train_images_option
from testbed.cli.options.loggers import log_option
from testbed.cli.options.numbers import LARGEST_SEED, Threads, Whole
from testbed.cli.options.settings import device_named, parsed_settings, set_option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from testbed.study.plan import StudyPlan
    from testbed.study.results import StudyReport, VariantDifference, VariantScore


@click.command(
    epilog=example(
        "testbed study patch --to runs/patch",
        "testbed study position --dataset imagefolder:photos --set width=64 --set depth=4 --set heads=2 --set mlp=256"
        " --epochs 10 --train-images 5000 --to runs/position",
        "testbed study attention --dataset digits --set image=8 --set patch=2 --epochs 5 --to runs/attention --dry-run",
        "testbed study my-study.toml --seeds 5 --log tensorboard --to runs/my-study",
    )
)
@click.argument("study_name", metavar="STUDY")
@click.option("--dataset", metavar="D", help="A name that 'testbed data list' shows; by default the study's.")
@click.option("--root", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="The data folder.")
@preprocess_option("the data set's own")
@classes_option
@train_images_option
@click.option("--test-images", type=Whole(1), metavar="N", help="Test on N images only, a random choice by class.")
@click.option("--epochs", type=Whole(1), help="Epochs of each training; by default the study's.")
@click.option("--seeds", type=Whole(1), default=3, show_default=True, help="Trainings of each variant.")
@click.option("--seed", type=Whole(0, LARGEST_SEED), default=0, show_default=True, help="The first of the seeds.")
@set_option
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, or auto: cuda where there is one.")
@click.option("--threads", type=Threads(), default=1, show_default=True, help="CPU threads.")
@log_option
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="DIR",
    help="The study's folder; the same command again goes on with it, also with more seeds.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be trained; trains and writes nothing.")
@json_option
def study(
    study_name: str,
    dataset: str | None,
    root: Path | None,
    preprocess: str | None,
    classes: str | None,
    train_images: int | None,
    test_images: int | None,
    epochs: int | None,
    seeds: int,
    seed: int,
    settings: tuple[str, ...],
    device: str,
    threads: int,
    loggers: tuple[str, ...],
    to: Path,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train the variants of STUDY on several seeds and compare their test accuracies.

    STUDY is patch, position, config, augmentation or attention, or a TOML file of your own. Validation images choose
    the epoch of each training; its test images are looked at once. DIR gets a run folder for each training
    (runs/VARIANT/seed-N), the accuracies with intervals (study.json, study.csv, study.png) and all curves.
    """
    from testbed.study.plan import plan_study
    from testbed.study.run import run_study
    from testbed.train.loggers import check_loggers

    check_loggers(loggers)
    plan = plan_study(
        study_name,
        parsed_settings(settings),
        "--set",
        dataset=dataset,
        root=root,
        preprocess=preprocess,
        classes=classes,
        train_images=train_images,
        test_images=test_images,
        epochs=epochs,
        seeds=seeds,
        seed=seed,
    )
    if dry_run:
        described = {"to": str(to)} | plan.describe()
        emit(described, as_json, lambda: _plan_text(plan, described))
        return
    total = len(plan.seeds) * len(plan.variants)
    try:
        report = run_study(
            plan,
            to,
            threads=threads,
            device=device_named(device),
            loggers=loggers,
            callbacks=[] if sys.stderr.isatty() else [say_epoch],
            begun=lambda name, number, done: say(f"{name}, seed {number}: training {done + 1} of {total}"),
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("every finished epoch is kept; go on with the same command") from None
    emit({"to": str(to)} | asdict(report), as_json, lambda: _report_text(report, to, plan.spec.results))


def _plan_text(plan: StudyPlan, described: dict[str, Any]) -> list[str]:
    images = described["dataset"]["images"]
    lines = [
        f"would train {described['trainings']} models: {len(plan.variants)} variants of {plan.spec.preset} on"
        f" {len(plan.seeds)} seeds, {plan.spec.epochs} epochs each",
        f"data {described['dataset']['name']}: {images['train']:,} training, {images['validation']:,} validation,"
        f" {images['test']:,} test images",
    ]
    for planned in plan.variants:
        changes = ", ".join(f"{key} {value}" for key, value in planned.variant.set.items())
        lines.append(f"{planned.variant.name}: {changes}; {planned.trainings[0].parameters:,} parameters")
    return [*lines, f"into {described['to']}; nothing was written"]


def _report_text(report: StudyReport, to: Path, results: str) -> RenderableType:
    from testbed.cli.tables.prose import stacked

    published = [pair for pair in report.differences if pair.verdict is not None]
    lines = [_order_line(published)] if published else []
    lines += [
        f"{report.epochs} epochs on {report.train_images:,} images of {report.dataset}, the epoch chosen by"
        f" {report.validation_images:,} others; {report.test_images:,} test images, looked at once",
        f"written: {to}/study.json, study.csv, study.png, curves.csv, curves.png, {results}",
    ]
    parts = [_scores_table(report)]
    if len(report.seeds) > 1:
        parts.append(_differences_table(report))
    return stacked([*parts, *lines])


def _scores_table(report: StudyReport) -> RenderableType:
    from testbed.cli.tables.fitting import FittedTable

    table = FittedTable(title=f"study {report.study}: {report.about}")
    columns = ["test accuracy %", f"{100 * report.confidence:.0f} % interval", "n", "parameters", "best epochs", "s"]
    for name in ("variant", *columns, *(["published %"] if report.is_published_setting else [])):
        table.add_column(name, justify="left" if name == "variant" else "right")
    for variant in report.variants:
        table.add_row(*_score_cells(variant, report.is_published_setting))
    return table


def _score_cells(variant: VariantScore, with_published: bool) -> list[str]:
    epochs = " ".join(str(score.best_epoch) for score in variant.scores)
    cells = [
        variant.name,
        f"{100 * variant.mean:.2f}",
        f"{100 * variant.low:.2f} .. {100 * variant.high:.2f}",
        str(variant.n),
        f"{variant.parameters:,}",
        epochs,
        f"{variant.seconds:.0f}",
    ]
    if with_published:
        cells.append("-" if variant.published is None else f"{100 * variant.published:.2f}")
    return cells


def _differences_table(report: StudyReport) -> RenderableType:
    from testbed.cli.tables.fitting import FittedTable

    table = FittedTable(title="differences, in pairs of one seed (points of test accuracy)")
    for name in ("pair", "mean", f"{100 * report.confidence:.0f} % interval", "published", "its sign"):
        table.add_column(name, justify="left" if name in ("pair", "its sign") else "right")
    for pair in report.differences:
        limits = "-" if pair.low is None or pair.high is None else f"{100 * pair.low:+.2f} .. {100 * pair.high:+.2f}"
        table.add_row(
            f"{pair.first} - {pair.second}",
            f"{100 * pair.mean:+.2f}",
            limits,
            "-" if pair.published is None else f"{100 * pair.published:+.2f}",
            pair.verdict or "-",
        )
    return table


def _order_line(published: list[VariantDifference]) -> str:
    counts = {word: sum(pair.verdict == word for pair in published) for word in ("holds", "reversed", "undecided")}
    return (
        f"published order: of {len(published)} pairs {counts['holds']} hold here, {counts['reversed']} are reversed,"
        f" {counts['undecided']} are undecided (each interval is of its own pair)"
    )
