"""``testbed train``: train a Vision Transformer into a run folder."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.cli.common import emit, example, json_option, run_option, say_epoch
from testbed.cli.options.data import classes_option, preprocess_option, train_images_option
from testbed.cli.options.loggers import log_option
from testbed.cli.options.numbers import LARGEST_SEED, Threads, Whole
from testbed.cli.options.settings import device_named, parsed_settings, set_option

if TYPE_CHECKING:
    from testbed.sensitivity.fuzziness.log import Recorder
    from testbed.train.record import Callback
    from testbed.train.runs import TrainingFacts, TrainingPlan


@click.command(
    epilog=example(
        "testbed train digits --dataset digits --run runs/digits-model",
        "testbed train cifar10 --dataset cifar10 --set augmentation=cutout --set patch=8 --run runs/cutout",
        "testbed train fashion-mnist --dataset fashion-mnist --fuzziness-every 10 --run runs/fashion",
        "testbed train digits --dataset digits --log tensorboard --log wandb --run runs/logged",
        "for mlp in 64 128 256; do testbed train fashion-mnist --dataset fashion-mnist --set mlp=$mlp --run runs/mlp-$mlp;"
        " done",
        "testbed train vit-base-16-224 --dataset imagefolder:photos/test --epochs 0 --run runs/random",
    )
)
@click.argument("preset")
@click.option("--dataset", required=True, metavar="D", help="A name that 'testbed data list' shows.")
@click.option("--root", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="The data folder.")
@preprocess_option("the data set's own")
@classes_option
@train_images_option
@click.option("--recipe", "recipe_name", metavar="R", help="How to train; by default the one of the preset's study.")
@click.option("--epochs", type=Whole(0), help="0: seeded random weights.")
@click.option("--seed", type=Whole(0, LARGEST_SEED), default=0, show_default=True, help="Of split and training.")
@set_option
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, or auto: cuda where there is one.")
@click.option("--threads", type=Threads(), default=1, show_default=True, help="CPU threads.")
@click.option(
    "--fuzziness-every",
    type=Whole(1),
    metavar="N",
    help="Record every layer's separation fuzziness every N epochs and after the last, in DIR/fuzziness.",
)
@log_option
@run_option()
@click.option("--redo", type=click.Choice(["train"]), help="Forget what the folder holds and train again.")
@click.option("--dry-run", is_flag=True, help="Say what would be trained; trains and writes nothing.")
@json_option
def train(
    preset: str,
    dataset: str,
    root: Path | None,
    preprocess: str | None,
    classes: str | None,
    train_images: int | None,
    recipe_name: str | None,
    epochs: int | None,
    seed: int,
    settings: tuple[str, ...],
    device: str,
    threads: int,
    fuzziness_every: int | None,
    loggers: tuple[str, ...],
    run: Path,
    redo: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train the model PRESET, or go on with a training that was interrupted.

    DIR gets the weights (model.safetensors), the curves (curves.csv, curves.png) and a manifest. The weights kept are
    those of the best epoch on the validation images, or of the last, as the recipe says.
    """
    from testbed.train.asked import asked_source, plan_training

    plan = plan_training(
        preset,
        asked_source(dataset, root, preprocess, classes, seed),
        parsed_settings(settings),
        "--set",
        recipe_name=recipe_name,
        epochs=epochs,
        seed=seed,
        train_images=train_images,
    )
    described = {"run": str(run)} | plan.to_json()
    if dry_run:
        emit(described, as_json, lambda: _plan_text(plan, run))
        return
    recorder = _recorder(plan, run, fuzziness_every) if fuzziness_every else None
    facts = _trained(plan, run, device_named(device), threads, redo is not None, recorder, loggers)
    fuzziness = _recorded(run, recorder) if recorder else None
    report = described | facts.to_json() | ({"fuzziness": fuzziness} if fuzziness else {})
    emit(report, as_json, lambda: _result_text(plan, run, facts, fuzziness))


def _trained(
    plan: TrainingPlan,
    run: Path,
    device: str,
    threads: int,
    redo: bool,
    recorder: Recorder | None,
    loggers: Sequence[str],
) -> TrainingFacts:
    from testbed.train.runs import train_run

    callbacks: list[Callback] = [] if sys.stderr.isatty() else [say_epoch]
    if recorder:
        callbacks.append(recorder)
    try:
        return train_run(plan, run, threads=threads, device=device, callbacks=callbacks, loggers=loggers, redo=redo)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("every finished epoch is kept; go on with the same command") from None


def _recorder(plan: TrainingPlan, run: Path, every: int) -> Recorder:
    from testbed.sensitivity.fuzziness.artefacts import recorder_for

    return recorder_for(run, plan.dataset, every=every, epochs=plan.recipe.epochs)


@dataclass(frozen=True)
class RecordedFuzziness:
    """What a training recorded. log: the file; epochs: those recorded."""

    log: str
    epochs: list[int]


def _recorded(run: Path, recorder: Recorder) -> RecordedFuzziness:
    """What the report says of the fuzziness; the pictures are drawn here."""
    from testbed.sensitivity.fuzziness.artefacts import LOG, finish_log

    log = finish_log(run, recorder)
    return RecordedFuzziness(str(run / LOG), [row.epoch for row in log])


def _plan_text(plan: TrainingPlan, run: Path) -> list[str]:
    recipe, dataset = plan.recipe, plan.dataset
    changes = ", ".join(f"{key} {value}" for key, value in recipe.to_json().items() if key != "name")
    return [
        f"would train {plan.name} ({plan.parameters:,} parameters) on {dataset.name}"
        f" ({len(dataset.train):,} training, {len(dataset.validation):,} validation images), seed {plan.seed}",
        f"recipe {recipe.name}: {changes}",
        f"into {run}; nothing was written",
    ]


def _result_text(plan: TrainingPlan, run: Path, facts: TrainingFacts, fuzziness: RecordedFuzziness | None) -> list[str]:
    from testbed.models.runs import MODEL

    head = f"{plan.name}: {facts.parameters:,} parameters, seed {plan.seed}"
    if facts.test_accuracy is None:
        return [f"{head}, random weights", f"model: {run}/{MODEL}"]
    validation = facts.validation_accuracy
    shown = "no validation images" if validation is None else f"validation accuracy {100 * validation:.2f} %"
    lines = [
        f"{head}, epoch {facts.best_epoch} of {facts.epochs} kept: {shown},"
        f" test accuracy {100 * facts.test_accuracy:.2f} % of {len(plan.dataset.test):,}",
        f"model: {run}/{MODEL}, curves: {run}/curves.png",
    ]
    if fuzziness:
        lines.append(f"fuzziness of {len(fuzziness.epochs)} epochs: {fuzziness.log}, pictures beside it")
    return lines
