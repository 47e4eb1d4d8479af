"""``testbed golden``: record golden outputs, and verify that an engine reproduces them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.cli.common import Command, emit, example, json_option
from testbed.cli.groups import DefaultGroup
from testbed.cli.options.numbers import LARGEST_BATCH, Number, Threads, Whole
from testbed.cli.options.types import EngineOption, ImageRange, ImagesOption
from testbed.core.errors import GateFailed, UsageError
from testbed.core.words.bounds import at_least

if TYPE_CHECKING:
    from rich.console import RenderableType

    from testbed.golden.verify import Verification

_FILE = click.Path(dir_okay=False, path_type=Path)


def folder_argument(command: Command) -> Command:
    """``DIR``, passed on as ``folder``: a run folder that exists."""
    return click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))(command)


def batch_option(command: Command) -> Command:
    """``--batch``."""
    kind = Whole(1, LARGEST_BATCH)
    return click.option("--batch", type=kind, default=64, show_default=True, help="Images at a time.")(command)


@click.group(
    cls=DefaultGroup,
    default="record",
    options_metavar="",
    subcommand_metavar="DIR [OPTIONS] | COMMAND DIR [OPTIONS]",
    epilog=example(
        "testbed golden runs/vit",
        "testbed golden runs/vit --images 250 --module attention:3 --module block.3.mlp",
        "testbed golden verify runs/vit --target attention --engine ort-cpu --atol 5e-6",
    ),
)
def golden() -> None:
    """Record the golden outputs of the model in run folder DIR, and verify that an engine reproduces them.

    `testbed golden DIR` is short for `testbed golden record DIR`.
    """


@golden.command(
    short_help="Record the golden; what is done where no command is named.",
    epilog=example(
        "testbed golden record runs/vit",
        "testbed golden runs/vit --images 250 --json",
        "testbed golden runs/vit --images 0:250",
    ),
)
@folder_argument
@click.option(
    "--images",
    type=ImagesOption(),
    metavar="N|A:B",
    help="Only N test images, a random choice with all classes in proportion, or images A to B - 1; by default all.",
)
@click.option(
    "--module",
    "modules",
    multiple=True,
    metavar="NAME",
    help="Record this module's input and output: attention (the first one, the default), attention:N, block:N, or a"
    " name such as block.3.mlp. May be repeated.",
)
@click.option("--logits-only", is_flag=True, help="Record no module's input and output.")
@batch_option
@click.option("--threads", type=Threads(), help="CPU threads, one for each batch; by default as many as cores.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, or auto: cuda where there is one.")
@json_option
def record(
    folder: Path,
    images: int | tuple[int, int] | None,
    modules: tuple[str, ...],
    logits_only: bool,
    batch: int,
    threads: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Run the model in DIR over the test images; record logits and the first attention's inputs and outputs.

    Everything is streamed to DIR/golden, so that memory holds the model and a few batches whatever the number of
    images. What is already there is not recorded again; other images or modules replace it. Of a campaign's folder, it
    says what its golden holds.
    """
    if modules and logits_only:
        raise UsageError("give --module or --logits-only, not both")
    from testbed.analysis.outputs.classes import classes_told
    from testbed.cli.progress import log_to_stderr, progress_on_stderr
    from testbed.golden.recording import DEFAULT_MODULES, record_golden

    log_to_stderr()
    recorded = record_golden(
        folder,
        images=images,
        modules=() if logits_only else modules or DEFAULT_MODULES,
        batch=batch,
        device=device,
        threads=threads,
        progress=lambda total: progress_on_stderr(total, "images"),
    )
    text = [
        f"accuracy {100 * recorded.accuracy:.2f} % of"
        f" {classes_told(recorded.classes, recorded.run.model.config.classes)}",
        f"recorded in {folder}/golden: logits{''.join(f', {name}' for name in recorded.modules)}",
    ]
    emit(recorded.content, as_json, lambda: text)


@golden.command(
    short_help="Verify that an engine reproduces the golden.",
    epilog=example(
        "testbed golden verify runs/vit --target attention --engine torch --atol 5e-6",
        "testbed golden verify runs/vit --target attention --engine ort-cpu --atol 5e-6 --inject --json",
    ),
)
@folder_argument
@click.option("--target", default="model", show_default=True, help="model, attention, attention:N or block:N.")
@click.option(
    "--engine",
    type=EngineOption(),
    default="ort-cpu",
    show_default=True,
    help="What runs it, such as torch or ort-cpu.",
)
@click.option("--atol", type=Number(0), default=1e-6, show_default=True, help="Absolute tolerance.")
@click.option("--rtol", type=Number(0), default=1e-5, show_default=True, help="Tolerance relative to the golden value.")
@click.option("--inject", is_flag=True, help="Put a fixed list of wrong values into the golden; they must be found.")
@batch_option
@click.option("--threads", type=Threads(), default=1, show_default=True, help="CPU threads of the engine.")
@json_option
def verify(
    folder: Path,
    target: str,
    engine: str,
    atol: float,
    rtol: float,
    inject: bool,
    batch: int,
    threads: int,
    as_json: bool,
) -> None:
    """Run the target in an engine and compare each image's output with the golden in DIR, per confidence tier.

    Compared are the images of `testbed subset` if there is a subset, else all recorded ones. An image is faulty if any
    element y is outside |y - golden| <= atol + rtol |golden|. Exit status 3 if one is, or if --inject's are not found.
    """
    from testbed.analysis.outputs.compare import Tolerance
    from testbed.cli.progress import log_to_stderr, progress_on_stderr
    from testbed.golden.verify import verify_golden

    log_to_stderr()
    verification = verify_golden(
        folder,
        target,
        engine,
        Tolerance(atol, rtol),
        inject=inject,
        batch=batch,
        threads=threads,
        progress=lambda total: progress_on_stderr(total, "images"),
    )
    emit(verification, as_json, lambda: _verification_text(verification))
    if verification.faulty_images != verification.expected:
        raise GateFailed(_verdict(verification))


@golden.command(
    "export-originals",
    short_help="Write golden_*.pt and the like.",
    epilog=example("testbed golden export-originals runs/vit --to files --name tiny"),
)
@folder_argument
@click.option("--to", required=True, type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Where to.")
@click.option("--name", default="vit", show_default=True, help="NAME in the files' names.")
@click.option("--subset", is_flag=True, help="The attention data set of the subset's images only.")
@json_option
def export_originals(folder: Path, to: Path, name: str, subset: bool, as_json: bool) -> None:
    """Write the golden in DIR as files of the original attention-subnetwork workflow.

    These are golden_NAME.pt, NAME_attn_dataset.pt and, after `testbed tiers`, NAME_cnf_corr_outT.pt for T tiers. The
    weights (vit_NAME_cifar10.pth, NAME_part_att.pth) are written by `testbed export-weights`.
    """
    from testbed.golden.originals import export_originals as export

    files = export(folder, to, name, subset_only=subset)
    emit({"files": files}, as_json, lambda: list(map(str, files)))


@golden.command(
    "import-originals",
    short_help="Take golden_*.pt and the like as the golden.",
    epilog=example(
        "testbed import vit_tiny_cifar10.pth --run runs/tiny --data cifar10",
        "testbed golden import-originals runs/tiny --golden golden_tiny.pt --attention tiny_attn_dataset.pt",
    ),
)
@folder_argument
@click.option("--golden", "golden_file", required=True, type=_FILE, metavar="FILE", help="Logits: golden_*.pt.")
@click.option("--attention", type=_FILE, metavar="FILE", help="Of the same images: *_attn_dataset.pt.")
@click.option("--tiers", type=_FILE, metavar="FILE", help="Lists of positions: *_cnf_corr_out*.pt, 4 or 5 tiers.")
@click.option("--images", type=ImageRange(), metavar="A:B", help="The test images they are of; by default all.")
@json_option
def import_originals(
    folder: Path,
    golden_file: Path,
    attention: Path | None,
    tiers: Path | None,
    images: tuple[int, int] | None,
    as_json: bool,
) -> None:
    """Take goldens that the original attention-subnetwork workflow recorded as the golden of run folder DIR.

    The folder is one of `testbed import`, with the same weights and --data. A few images are computed again: files of
    another model, or in another order, are refused. Afterwards tiers, subset and verify work as after `testbed golden`.
    """
    from testbed.cli.progress import log_to_stderr
    from testbed.golden.originals import import_originals as take

    log_to_stderr()
    imported = take(folder, golden_file, attention_file=attention, tiers_file=tiers, images=images)
    report = {"images": len(imported), "accuracy": imported.accuracy, "modules": imported.modules}
    emit(
        report,
        as_json,
        lambda: f"{len(imported):,} images, accuracy {100 * imported.accuracy:.2f} %; taken into {folder}",
    )


def _verdict(verification: Verification) -> str:
    faulty = len(verification.faulty_images)
    if verification.injected:
        return (
            f"the injected images are {verification.expected}, but the comparison found {faulty}:"
            f" {verification.faulty_images[:9]}"
        )
    return (
        f"{faulty} of {verification.images} images are not reproduced by {verification.engine} within atol"
        f" {verification.atol:g} and rtol"
        f" {verification.rtol:g}; the largest deviation is {verification.max_abs_diff:.3g}"
    )


def _verification_text(verification: Verification) -> RenderableType:
    from testbed.analysis.outputs.confidence import interval_name
    from testbed.cli.tables.fitting import FittedTable
    from testbed.cli.tables.prose import stacked

    table = FittedTable(boxed=False)
    for heading in ("confidence", "images", "faulty", "largest deviation", "smallest atol that passes"):
        table.add_column(heading, justify="left" if heading == "confidence" else "right")
    for tier in verification.tiers:
        deviation = "-" if tier.max_abs_diff is None else f"{tier.max_abs_diff:.3g}"
        atol = "-" if tier.smallest_atol is None else at_least(tier.smallest_atol)
        table.add_row(interval_name(tier.low, tier.high), f"{tier.n}", f"{tier.faulty}", deviation, atol)
    head = (
        f"{verification.target} in {verification.engine}, engine {verification.engine_hash}, atol"
        f" {verification.atol:g}, rtol {verification.rtol:g}"
    )
    shown = ", ".join(map(str, verification.faulty_images[:20])) + (
        ", ..." if len(verification.faulty_images) > 20 else ""
    )
    faulty = f"faulty: {len(verification.faulty_images)} of {verification.images} images" + (
        f", at {shown}" if shown else ""
    )
    return stacked([head, table, f"{faulty}; largest deviation {verification.max_abs_diff:.3g}"])
