"""``testbed classspace``: what every hidden state of a model says about the classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from testbed.cli.common import emit, example, json_option
from testbed.cli.options.numbers import LARGEST_SEED, Confidence, Threads, Whole

_FOLDER = click.Path(file_okay=False, path_type=Path)


class TokenPositions(click.ParamType):
    """``auto``, ``all``, ``cls``, or token positions and ``pooled`` separated by commas."""

    name = "positions"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str) or value in ("auto", "all", "cls"):
            return value
        try:
            return tuple("pooled" if part.strip() == "pooled" else int(part) for part in value.split(","))
        except ValueError:
            wanted = "write auto, all, cls, or numbers and pooled, such as 0,1,17,pooled"
            self.fail(f"{value!r} is no list of token positions; {wanted}", param, ctx)


@click.command(
    epilog=example(
        "testbed classspace runs/vit --to runs/vit-classes",
        "testbed classspace runs/vit --dry-run",
        "testbed classspace runs/vit --analyses identifiability,probe --images 1000 --to runs/vit-classes --json",
        "testbed classspace runs/vit --analyses perturbation --masks masks --to runs/vit-masked",
    )
)
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--to", type=_FOLDER, metavar="DIR", help="Folder for the tables, the pictures and class_space.json.")
@click.option(
    "--analyses",
    metavar="A,B,...",
    help="Of identifiability, memories, perturbation, explanation, probe; by default all that the model and its data allow.",
)
@click.option(
    "--images", type=Whole(2), metavar="N", help="Only N test images, a random choice by class; by default all."
)
@click.option(
    "--baseline-images",
    type=Whole(2),
    default=1000,
    show_default=True,
    help="Images of the same model with random weights.",
)
@click.option(
    "--explain-images", type=Whole(2), default=256, show_default=True, help="Images of the perturbation curves."
)
@click.option(
    "--explain",
    type=click.Choice(["true", "predicted"]),
    default="true",
    show_default=True,
    help="Explain which class.",
)
@click.option("--masks", metavar="DIR", help="Which patches are on the object: DIR/IMAGE-ID.png, or imagenet-s.")
@click.option("--probe-images", type=Whole(2), default=1000, show_default=True, help="Test images of the probes.")
@click.option(
    "--shots", type=Whole(1), default=10, show_default=True, help="Training images of each class for a probe."
)
@click.option(
    "--positions",
    type=TokenPositions(),
    default="auto",
    show_default=True,
    help="Probed tokens: all, cls, or a list, as 0,1,17,pooled (the mean over image tokens); auto: all, or for a large model"
    " a sample.",
)
@click.option(
    "--data", metavar="NAME", help="Data set with training images for the probes, where the model's has none."
)
@click.option(
    "--seed", type=Whole(0, LARGEST_SEED), default=0, show_default=True, help="Of random weights, choices and orders."
)
@click.option("--confidence", type=Confidence(), default=0.95, show_default=True, help="Of the intervals.")
@click.option("--threads", type=Threads(), default=1, show_default=True, help="CPU threads.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, or auto: cuda where there is one.")
@click.option("--dry-run", is_flag=True, help="Say what would be run, and what does not go; run and write nothing.")
@json_option
def classspace(
    folder: Path,
    to: Path | None,
    analyses: str | None,
    images: int | None,
    baseline_images: int,
    explain_images: int,
    explain: Any,
    masks: str | None,
    probe_images: int,
    shots: int,
    positions: Any,
    data: str | None,
    seed: int,
    confidence: float,
    threads: int,
    device: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Project every hidden state of the model in DIR to the classes, through its own norm and head, and say what they know.

    Identifiability of the true class block by block; what attention and MLP add; their memories; what is left when
    attention is cut or tokens are dropped; which tokens a class rests on; linear probes. Every number has an interval over
    images. Writes a CSV per table, a PNG per analysis and class_space.json into --to.
    """
    if to is None and not dry_run:
        raise click.UsageError(
            "name the folder for the tables and pictures: --to DIR (or see what would run: --dry-run)"
        )
    import torch

    from testbed.cli.progress import progress_on_stderr
    from testbed.cli.tables.class_space import plan_text, study_text
    from testbed.sensitivity.class_space.settings import ClassSpaceSettings, analyses_named
    from testbed.sensitivity.class_space.study import plan_class_space, study_class_space

    torch.set_num_threads(threads)
    settings = ClassSpaceSettings(
        analyses=None if analyses is None else analyses_named(analyses.split(",")),
        images=images,
        baseline_images=baseline_images,
        explain_images=explain_images,
        probe_images=probe_images,
        shots=shots,
        positions=positions,
        explained=explain,
        masks=masks,
        data=data,
        seed=seed,
        confidence=confidence,
    )
    if to is None or dry_run:
        plan = plan_class_space(folder, settings)
        emit(plan, as_json, lambda: plan_text(plan))
        return
    from testbed.sensitivity.class_space.artefacts import write_class_space
    from testbed.sensitivity.class_space.tables import record_of

    study = study_class_space(
        folder, settings, device=device, progress=lambda total: progress_on_stderr(total, "images")
    )
    files = write_class_space(to, study)
    emit(record_of(study) | {"files": files}, as_json, lambda: study_text(study, to, len(files)))
