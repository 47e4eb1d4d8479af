"""``testbed figures``: figures of rates for papers."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.cli.common import emit, example, json_option
from testbed.cli.options.types import WordsOption


@click.command(
    epilog=example(
        "testbed figures runs/digits --to figures",
        "testbed figures runs/digits runs/digits-openvino --format pdf --style wide --to figures",
        "testbed figures runs/digits --by bit --measure outside --op stuck1 --to figures",
    )
)
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--by",
    type=WordsOption("block", "bit", "kind", "bit_class", "tier", "site"),
    default="block,bit,kind",
    show_default=True,
    metavar="A,B,...",
    help="One figure each: by block, bit, kind (of site), bit_class, tier or site.",
)
@click.option("--op", default="flip", show_default=True, metavar="NAME", help="Of this fault model.")
@click.option(
    "--measure",
    type=click.Choice(["sdc1", "outside", "nonfinite"]),
    default="sdc1",
    show_default=True,
    help="Which rate: another top-1, outside the tolerance, a NaN or infinity in the output.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["svg", "pdf", "png"]),
    default="svg",
    show_default=True,
    help="Kind of file: letters are outlines in svg, embedded fonts in pdf.",
)
@click.option(
    "--style",
    type=click.Choice(["paper", "wide", "slides"]),
    default="paper",
    show_default=True,
    help="paper: one column of two (3.5 inches); wide: both columns; slides: large letters.",
)
@click.option(
    "--to", type=click.Path(file_okay=False, path_type=Path), required=True, metavar="DIR", help="For the figures."
)
@json_option
def figures(
    folders: tuple[Path, ...],
    by: tuple[str, ...],
    op: str,
    measure: str,
    form: str,
    style: str,
    to: Path,
    as_json: bool,
) -> None:
    """Draw the rates of the finished campaigns in DIR... with their intervals: a figure per --by, a series per run.

    Nothing is run. Fonts are embedded, colours are told apart with every kind of colour blindness, and the same rates give
    the same file, byte for byte. The paths of the figures go to standard output.
    """
    from testbed.publish.figures import write_figures

    written = write_figures(folders, to, by=by, measure=measure, op=op, form=form, style=style)
    emit({"figures": written}, as_json, lambda: [str(path) for path in written])
