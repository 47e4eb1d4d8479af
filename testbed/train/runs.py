"""A training in a run folder: model, curves, manifest. The same call again goes on, or changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue

from testbed.analysis.outputs.guessing import share_warning
from testbed.core.folder.forms import Form
from testbed.core.folder.runfolder import RunFolder
from testbed.core.folder.stage_facts import facts_of
from testbed.data import Dataset, load
from testbed.models.config import ViTConfig
from testbed.models.presets import preset
from testbed.models.runs import MODEL, DataSource, claim_model_run
from testbed.models.vit import ViT
from testbed.models.weights import save_model
from testbed.train.curves import write_csv, write_png
from testbed.train.evaluation import evaluate
from testbed.train.loggers import check_loggers, log_finished, logging_to
from testbed.train.loop import Trained, check_fit, compute_device, train
from testbed.train.recipes import Recipe
from testbed.train.record import Callback
from testbed.train.seeding import process_state_kept

log = logging.getLogger(__name__)

STAGE = "train"
CHECKPOINT = "training.checkpoint"
CURVES, CURVES_PICTURE = "curves.csv", "curves.png"


class TrainingFacts(Form):
    """What the manifest says of a training. Accuracies in [0, 1], of the chosen epoch; only of one of an epoch or more."""

    device: str
    threads: int
    parameters: int
    epochs: int
    best_epoch: int
    validation_accuracy: float | None = None
    test_accuracy: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class TrainingPlan:
    """What is to be trained, on what, and how; ``name`` is the preset's."""

    name: str
    config: ViTConfig
    source: DataSource
    dataset: Dataset
    recipe: Recipe
    seed: int

    @classmethod
    def of(
        cls,
        name: str,
        source: DataSource,
        recipe: Recipe,
        *,
        seed: int = 0,
        overrides: dict[str, Any] | None = None,
        train_images: int | None = None,
    ) -> TrainingPlan:
        """The preset with ``overrides``; its input channels and classes follow the data set unless they are overridden.
        ``train_images``: only so many (`Dataset.with_train_images`).

        Raises UsageError for unknown names and for what does not fit together, TestbedError for bad data.
        """
        dataset = load(source.name, image=preset(name, **(overrides or {})).image, **source.options)
        if train_images is not None:
            dataset = dataset.with_train_images(train_images)
        return cls.on(dataset, name, source, recipe, seed=seed, overrides=overrides)

    @classmethod
    def on(
        cls,
        dataset: Dataset,
        name: str,
        source: DataSource,
        recipe: Recipe,
        *,
        seed: int,
        overrides: dict[str, Any] | None = None,
    ) -> TrainingPlan:
        """The same on a data set that is loaded already, from ``source``."""
        followed = {"channels": dataset.channels, "classes": len(dataset.classes)}
        config = preset(name, **(followed | (overrides or {})))
        check_fit(config, dataset, recipe)
        return cls(name, config, source, dataset, recipe, seed)

    def made_from(self) -> dict[str, JsonValue]:
        """What decides the weights, as JSON. Initial weights (0 epochs) do not depend on the images."""
        images: dict[str, JsonValue] = {
            "train": self.dataset.train.sha256(),
            "validation": self.dataset.validation.sha256(),
        }
        return {
            "preset": self.name,
            "model": self.config.to_json(),
            "recipe": self.recipe.to_json(),
            "seed": self.seed,
            "images": images if self.recipe.epochs else None,
        }

    @property
    def title(self) -> str:
        """What people read above its curves."""
        return f"{self.name} on {self.dataset.name}, recipe {self.recipe.name}, seed {self.seed}"

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        with torch.device("meta"):  # counts without memory for the weights
            return sum(parameter.numel() for parameter in ViT(self.config).parameters())

    def settings(self) -> dict[str, JsonValue]:
        """What a logger keeps beside the figures: flat, JSON-ready."""
        chosen: dict[str, JsonValue] = {"preset": self.name, "dataset": self.dataset.name, "seed": self.seed}
        return chosen | self.config.to_json() | {f"recipe.{key}": value for key, value in self.recipe.to_json().items()}

    def to_json(self) -> dict[str, JsonValue]:
        """All that is planned; of the images, how many there are."""
        return {
            "preset": self.name,
            "parameters": self.parameters,
            "model": self.config.to_json(),
            "dataset": self.dataset.describe().to_json(),
            "recipe": self.recipe.to_json(),
            "seed": self.seed,
        }


def train_run(
    plan: TrainingPlan,
    path: Path,
    *,
    threads: int = 1,
    device: str = "cpu",
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[str] = (),
    progress: bool = True,
    redo: bool = False,
) -> TrainingFacts:
    """Trains into the folder ``path`` and returns the facts kept in its manifest.

    An interrupted training goes on from the folder's checkpoint; a finished one is not repeated unless ``redo``.
    ``loggers``: of `LOGGERS`, what is given each epoch's figures beside the table of curves.
    Raises UsageError when the folder holds something else, StaleArtefact when its files were changed, and as ``train``.
    """
    target = compute_device(device)
    check_loggers(loggers)
    folder = claim_model_run(path, plan.name, plan.made_from(), plan.source)
    checkpoint = folder / CHECKPOINT
    files = [MODEL, CURVES, CURVES_PICTURE] if plan.recipe.epochs else [MODEL]

    def build() -> TrainingFacts:
        with logging_to(folder / CURVES, loggers, plan.title, plan.settings()) as log_epoch:
            trained = train(
                plan.config,
                plan.dataset,
                plan.recipe,
                seed=plan.seed,
                threads=threads,
                device=target,
                checkpoint=checkpoint if plan.recipe.epochs else None,
                callbacks=[log_epoch, *callbacks],
                progress=progress,
            )
        with process_state_kept(target, threads):
            return _written(plan, folder, trained, target, threads)

    with folder.locked():
        if redo:
            folder.redo(STAGE, [STAGE])
            checkpoint.unlink(missing_ok=True)
        folder.save()
        folder.stage(STAGE, plan.made_from(), files, build)
        checkpoint.unlink(missing_ok=True)  # three times the model's size, and no longer needed
        if plan.recipe.epochs:
            log_finished(folder / CURVES, loggers, plan.title, plan.settings())
    return facts_of(folder, STAGE, TrainingFacts)


def _written(
    plan: TrainingPlan, folder: RunFolder, trained: Trained, device: torch.device, threads: int
) -> TrainingFacts:
    """Writes the model and its curves; the chosen model sees the test images here, once."""
    save_model(folder / MODEL, trained.model)
    curves, best = trained.curves, trained.best_epoch
    facts = TrainingFacts(
        device=str(device), threads=threads, parameters=plan.parameters, epochs=len(curves), best_epoch=best
    )
    if not curves:
        return facts
    write_csv(folder / CURVES, curves)
    write_png(folder / CURVES_PICTURE, curves, best, plan.title)
    test = evaluate(trained.model.to(device), plan.dataset.test)
    if warning := share_warning(test.accuracy, len(plan.dataset.test), len(plan.dataset.classes)):
        log.warning("trained: test %s", warning)
    return facts.model_copy(
        update={
            "validation_accuracy": curves[best - 1].validation_accuracy if len(plan.dataset.validation) else None,
            "test_accuracy": test.accuracy,
            "seconds": round(sum(record.seconds for record in curves), 3),
        }
    )
