"""Training from Python."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed.api.model.folder import Model
from testbed.api.model.results import ModelResult
from testbed.api.progress import ProgressCallback, steps_of
from testbed.core.words import html

if TYPE_CHECKING:
    from testbed.models.vit import ViT
    from testbed.train.record import Callback, EpochRecord

File = str | os.PathLike[str]


class TrainingResult(ModelResult):
    """What was trained, or would be."""

    @property
    def model(self) -> Model:
        """The model in its run folder."""
        return Model(self.to_json()["run"])

    @property
    def test_accuracy(self) -> float | None:
        """Accuracy on the test images, from 0 to 1; None without training."""
        value = self.to_json().get("test_accuracy")
        return None if value is None else float(value)

    def _repr_html_(self) -> str:
        values = self.to_json()
        facts = {"parameters": f"{values['parameters']:,}", "data": values["dataset"]["name"], "seed": values["seed"]}
        if self.test_accuracy is not None:
            facts |= {"test accuracy": f"{100 * self.test_accuracy:.2f} %"}
        return html.heading(f"{values['preset']}: {values['run']}") + html.facts(facts)


def train_model(
    preset: str,
    dataset: str,
    to: File,
    *,
    root: File | None = None,
    preprocess: str | None = None,
    classes: str | None = None,
    train_images: int | None = None,
    recipe: str | None = None,
    epochs: int | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    threads: int = 1,
    fuzziness_every: int | None = None,
    loggers: Sequence[str] = (),
    redo: bool = False,
    dry_run: bool = False,
    progress: ProgressCallback | None = None,
) -> TrainingResult:
    """Train a Vision Transformer into a run folder, or go on with a training that was interrupted.

    Args:
        preset: Of the architecture: "digits", "cifar10", "vit-tiny-16-224", ...
        dataset: What it is trained on: a name that `testbed.data.load` takes.
        to: The run folder.
        root: The data folder.
        preprocess: How images become the model's input. Default: the data set's own.
        classes: The order of classes. Default: the data set's.
        train_images: So many training images. Default: all.
        recipe: How to train. Default: that of the preset's study.
        epochs: How long; 0 for seeded random weights. Default: as in the recipe.
        seed: Of split and training.
        settings: Other keys of the recipe or the model: `{"mlp": 64, "augmentation": "cutout"}`.
        device: "cpu", "cuda", or "auto": cuda where there is one.
        threads: CPU threads.
        fuzziness_every: Record every layer's separation fuzziness every so many epochs, for `measure_fuzziness`.
        loggers: Also log to "tensorboard" or "wandb".
        redo: Whether to forget what the folder holds.
        dry_run: Whether only to say what would be trained; nothing is written.
        progress: Called with a `Snapshot` after each epoch.

    Returns:
        What was trained, its accuracies, and the model.

    Raises:
        UsageError: For unknown names, for what does not fit together, and for a folder that holds something else.
        StaleArtefact: For files that were changed.

    Example:
        ```py
        trained = testbed.train_model("digits", "digits", "runs/digits-model", epochs=4)
        print(trained.test_accuracy, trained.model.record_golden().accuracy)
        ```
    """
    from testbed.golden.reference import compute_device
    from testbed.sensitivity.fuzziness.artefacts import LOG, finish_log, recorder_for
    from testbed.train.asked import asked_source, plan_training
    from testbed.train.runs import train_run

    folder = Path(to)
    plan = plan_training(
        preset,
        asked_source(dataset, root, preprocess, classes, seed),
        settings or {},
        "settings",
        recipe_name=recipe,
        epochs=epochs,
        seed=seed,
        train_images=train_images,
    )
    length = plan.recipe.epochs
    described = {"run": str(folder)} | plan.to_json()
    if dry_run:
        return TrainingResult(described)
    target = str(compute_device(device))
    with steps_of(progress, "train")(max(1, length), "epochs") as advance:

        def count(epoch: int, model: ViT, record: EpochRecord) -> None:
            advance(1)

        recorder = recorder_for(folder, plan.dataset, every=fuzziness_every, epochs=length) if fuzziness_every else None
        callbacks: list[Callback] = [count, *([recorder] if recorder else [])]
        facts = train_run(
            plan,
            folder,
            threads=threads,
            device=target,
            callbacks=callbacks,
            progress=False,
            redo=redo,
            loggers=loggers,
        )
    report: dict[str, Any] = described | facts.to_json()
    if recorder:
        log = finish_log(folder, recorder)
        report |= {"fuzziness": {"log": str(folder / LOG), "epochs": [row.epoch for row in log]}}
    return TrainingResult(report)
