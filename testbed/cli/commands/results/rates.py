"""``testbed results``: rates of finished runs, several in one table, for a terminal, a paper or a program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.cli.common import emit, emit_document, example, json_option
from testbed.cli.options.types import WordsOption

if TYPE_CHECKING:
    from testbed.cli.tables.fitting import FittedTable
    from testbed.publish.rates import RunRates

_FORMATS = ("table", "csv", "json", "latex", "markdown", "html")


@click.command(
    epilog=example(
        "testbed results runs/digits --by block,bit_class",
        "testbed results runs/digits runs/digits-openvino --by kind --op flip --format latex --to rates.tex",
        "testbed results runs/* --measure sdc1 --format csv > rates.csv",
        "testbed results runs/digits runs/digits-int8 --format html --to runs.html",
    )
)
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--by",
    type=WordsOption("tier", "block", "kind", "site", "bit_class", "bit", "format"),
    default="",
    metavar="A,B,...",
    help="Rates by tier, block, kind (of site), site, bit_class, bit, format (of the numbers), or several at once. Without"
    " it: one of each fault model.",
)
@click.option("--op", "ops", multiple=True, metavar="NAME", help="Only this fault model, as the table names it: flip.")
@click.option(
    "--measure",
    "measures",
    type=WordsOption("sdc1", "outside", "nonfinite"),
    default="sdc1,outside,nonfinite",
    show_default=True,
    metavar="A,B,...",
    help="Which rates: another top-1, outside the tolerance, a NaN or infinity in the output.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    default="table",
    show_default=True,
    help="csv and json: numbers from 0 to 1; the others: %. html: one page with figures.",
)
@click.option("--to", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write it there.")
@json_option
def results(
    folders: tuple[Path, ...],
    by: tuple[str, ...],
    ops: tuple[str, ...],
    measures: tuple[str, ...],
    form: str,
    to: Path | None,
    as_json: bool,
) -> None:
    """Tell the rates of the finished campaigns in DIR..., each with n and interval, in one table.

    Nothing is run: neither the spec nor the model nor the data are needed, and no engine. No rate mixes fault models. What
    is the same in all rows, such as the engine, is said above the table. --json is --format json.
    """
    from testbed.core.folder.files import write_text
    from testbed.publish.formats import rates_record
    from testbed.publish.rates import checked_measures, read_rates

    rates, wanted = read_rates(folders, by, ops), checked_measures(measures)
    form = "json" if as_json else form
    if to is not None:
        write_text(to, _formatted(form, folders, rates, wanted))
        emit({"written": to}, as_json, lambda: str(to))
    elif form in ("table", "json"):
        emit(rates_record(rates, wanted), form == "json", lambda: _rates_table(rates, wanted))
    else:
        emit_document(_formatted(form, folders, rates, wanted))


def _formatted(form: str, folders: tuple[Path, ...], rates: RunRates, measures: tuple[str, ...]) -> str:
    from testbed.publish.writing import format_rates

    return _plain(rates, measures) if form == "table" else format_rates(form, folders, rates, measures)


def _plain(rates: RunRates, measures: tuple[str, ...]) -> str:
    import io

    from testbed.core.words.console import PlainConsole

    screen = PlainConsole(file=io.StringIO(), width=140, highlight=False)
    screen.print(_rates_table(rates, measures), crop=False)
    return str(screen.file.getvalue())  # type: ignore[attr-defined]


def _rates_table(rates: RunRates, measures: tuple[str, ...]) -> FittedTable:
    from testbed.cli.tables.fitting import FittedTable
    from testbed.publish.display import rates_display

    display = rates_display(rates, measures)
    table = FittedTable(title=display.caption)
    for name, number in zip(display.headings, display.numbers, strict=True):
        table.add_column(name, justify="right" if name in ("faults", "n") else "left", no_wrap=number)
    for row in display.rows:
        table.add_row(*row)
    return table
