"""Studies of variants from Python: one design choice, several seeds."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from testbed.api.model.results import ModelResult
from testbed.core.words import html

File = str | os.PathLike[str]


class VariantStudy(ModelResult):
    """Test accuracies of the variants of a design choice."""

    @property
    def variants(self) -> pd.DataFrame:
        """One row per variant, as the study's record has it."""
        return pd.json_normalize(self.to_json()["variants"])

    def _repr_html_(self) -> str:
        names = [(variant["name"],) for variant in self.to_json()["variants"]]
        return html.heading("Study of variants") + html.table(("variant",), names)


def run_study(
    study: str,
    to: File,
    *,
    dataset: str | None = None,
    root: File | None = None,
    preprocess: str | None = None,
    classes: str | None = None,
    train_images: int | None = None,
    test_images: int | None = None,
    epochs: int | None = None,
    seeds: int = 3,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    threads: int = 1,
    loggers: Sequence[str] = (),
    dry_run: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> VariantStudy:
    """Train the variants of a design choice on several seeds, and compare their test accuracies.

    Args:
        study: "patch", "position", "config", "augmentation" or "attention", or a TOML file.
        to: Folder for the run folders and the results.
        dataset: What is trained on. Default: as in the study.
        root: The data folder.
        preprocess: How images become the model's input. Default: the data set's own.
        classes: The order of classes. Default: the data set's.
        train_images: So many training images. Default: as in the study.
        test_images: So many test images. Default: as in the study.
        epochs: Of each training. Default: as in the study.
        seeds: How many.
        seed: The first one.
        settings: Other keys of the recipe or the model, for all variants.
        device: "cpu", "cuda", or "auto": cuda where there is one.
        threads: CPU threads.
        loggers: Also log to "tensorboard" or "wandb".
        dry_run: Whether only to say what would be trained; nothing is written.
        report: Called with a line at the beginning of each training.

    Returns:
        Accuracies of the variants with intervals.

    Raises:
        UsageError: For an unknown study or name, and for what does not fit together.

    Example:
        ```py
        study = testbed.run_study("patch", "runs/patch", epochs=2, seeds=2)
        print(study.variants)
        ```
    """
    from testbed.golden.reference import compute_device
    from testbed.study.plan import plan_study
    from testbed.study.run import run_study as run_planned
    from testbed.train.loggers import check_loggers

    check_loggers(tuple(loggers))
    plan = plan_study(
        study,
        settings or {},
        "settings",
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
        return VariantStudy({"to": str(to)} | plan.describe())
    total = len(plan.seeds) * len(plan.variants)
    compared = run_planned(
        plan,
        Path(to),
        threads=threads,
        device=str(compute_device(device)),
        loggers=tuple(loggers),
        callbacks=[],
        begun=lambda name, number, done: report(f"{name}, seed {number}: training {done + 1} of {total}"),
    )
    return VariantStudy({"to": str(to)} | asdict(compared))
