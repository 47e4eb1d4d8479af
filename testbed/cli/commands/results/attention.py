"""``testbed attention``: where a model looks, and where it looks while a fault acts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.cli.common import emit, example, json_option
from testbed.cli.options.numbers import Threads, Whole

if TYPE_CHECKING:
    from rich.console import RenderableType

    from testbed.sensitivity.attention_maps.records import AttentionStudy

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(
    epilog=example(
        "testbed attention runs/vit --to attention",
        "testbed attention runs/vit --images digits/0003,digits/0161 --to attention --files --format png",
        "testbed attention runs/vit --over 200 --json",
        "testbed attention runs/digits --fault 4711 --to fault-4711",
    )
)
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--images", metavar="ID,ID,...", help="Test images to draw; by default the first four.")
@click.option(
    "--over",
    type=Whole(1),
    metavar="N",
    help="Measure attention distances over N test images, a random choice by class; by default all.",
)
@click.option("--fault", "fault_id", type=Whole(0), metavar="ID", help="A stored fault of the campaign in DIR.")
@click.option("--image", metavar="ID", help="With --fault: which image, for faults that act on all of them.")
@click.option("--to", type=_FOLDER, metavar="DIR", help="Write the page, the numbers and the pictures there.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["svg", "png"]),
    default="svg",
    show_default=True,
    help="Of the pictures.",
)
@click.option("--files", is_flag=True, help="With --to: also a file of each picture, and of each head alone.")
@click.option("--threads", type=Threads(), default=1, show_default=True, help="CPU threads.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, or auto: cuda where there is one.")
@json_option
def attention(
    folder: Path,
    images: str | None,
    over: int | None,
    fault_id: int | None,
    image: str | None,
    to: Path | None,
    form: str,
    files: bool,
    threads: int,
    device: str,
    as_json: bool,
) -> None:
    """Show where the model in DIR looks: rollout, every head of the last block, every block, positions, distances.

    Rollout is that of Abnar and Zuidema: what of each patch reaches the classifier. With --fault, DIR is a campaign's
    folder, and the same pictures are of the golden and of the faulty run, with their difference; at the faulty site stand
    the very bits that the campaign stored.
    """
    if files and to is None:
        raise click.UsageError("--files are written into --to DIR")
    if image is not None and fault_id is None:
        raise click.UsageError("--image goes with --fault; --images names test images to draw")
    if fault_id is not None and (images or over):
        raise click.UsageError("--fault has an image of its own; leave out --images and --over")
    import torch

    from testbed.cli.progress import progress_on_stderr
    from testbed.sensitivity.attention_maps.study import PictureOptions, study_attention, study_fault

    torch.set_num_threads(threads)
    options = PictureOptions(to, "png" if form == "png" else "svg", files)
    if fault_id is not None:
        study = study_fault(folder, fault_id, image=image, options=options)
    else:
        study = study_attention(
            folder,
            image_ids=images.split(",") if images else (),
            over=over,
            options=options,
            device=device,
            progress=lambda total: progress_on_stderr(total, "images"),
        )
    emit(study.to_json(), as_json, lambda: _text(study))


def _text(study: AttentionStudy) -> RenderableType:
    from testbed.cli.tables.prose import stacked

    parts = [_fault_table(study)] if study.fault else [_distance_table(study), _image_table(study)]
    return stacked([*parts, *(f"written: {path}" for path in study.files)])


def _distance_table(study: AttentionStudy) -> RenderableType:
    from testbed.cli.tables.fitting import FittedTable

    n = study.distances[0].images
    table = FittedTable(
        title=f"attention distance (px) over {n:,} test images of {study.data}, 95 % intervals of the mean"
    )
    for name in ("block", "head", "distance", "interval", "std"):
        table.add_column(name, justify="right")
    for record in study.distances:
        known = record.images > 1
        interval = f"[{record.low_px:.2f}, {record.high_px:.2f}]" if known else "-"
        spread = f"{record.std_px:.2f}" if known else "-"
        table.add_row(str(record.block), str(record.head), f"{record.mean_px:.2f}", interval, spread)
    return table


def _image_table(study: AttentionStudy) -> RenderableType:
    from testbed.cli.tables.fitting import FittedTable

    table = FittedTable(title="rollout: the patch that reaches the classifier most")
    for name in ("image", "label", "top-1", "row", "column", "share %"):
        table.add_column(name, justify="left" if name == "image" else "right")
    for image in study.images:
        row, column = image.focus
        table.add_row(
            image.image_id, str(image.label), str(image.top1), str(row), str(column), f"{100 * image.share:.1f}"
        )
    return table


def _fault_table(study: AttentionStudy) -> RenderableType:
    from testbed.cli.tables.fitting import FittedTable
    from testbed.cli.tables.prose import stacked

    assert study.fault is not None
    record, fault = study.fault, study.fault.fault
    what = fault.op if fault.bit is None else f"{fault.op} of bit {fault.bit}"
    element = f"{fault.site}[{fault.words[0].index[0]}]"
    lines = [
        f"fault {fault.fault_id}: {what} at {element}, image {fault.image_id}, label {fault.label}",
        f"top-1 {record.golden_top1} -> {record.faulty_top1}"
        + {True: ", as the campaign stored", False: f"; the campaign stored {fault.stored_top1}", None: ""}[
            record.agrees
        ],
    ]
    table = FittedTable(title="attention that went elsewhere, mean over heads and queries")
    for name in ("block", "moved %"):
        table.add_column(name, justify="right")
    for change in record.changes:
        table.add_row(str(change.block), "not finite" if change.moved is None else f"{100 * change.moved:.3g}")
    return stacked([*lines, table])
