"""One self-contained page of several runs: what each is, their rates in one table, their figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from testbed.core.errors import UsageError
from testbed.core.words import html
from testbed.publish.display import rates_display
from testbed.publish.figures import STYLES, figure_bytes
from testbed.publish.rates import RUN_COLUMNS, RunRates, read_rates

_FIGURES = ("block", "bit", "kind")


def rates_page(paths: Sequence[Path], rates: RunRates, measures: Sequence[str]) -> str:
    """Make the page. Figures are of the first measure and the first fault model that has it."""
    display = rates_display(rates, measures)
    runs = rates.table[list(RUN_COLUMNS)].drop_duplicates("run").to_numpy().tolist()
    body = [
        "<h1>Fault-injection campaigns side by side</h1>",
        f'<div class="wide">{html.table(RUN_COLUMNS, runs)}</div>',
        html.paragraph(display.caption),
        f'<div class="wide">{html.table(display.headings, display.rows)}</div>',
        *_figures(paths, rates, measures[0]),
    ]
    return html.page(f"{len(paths)} campaigns", body)


def _figures(paths: Sequence[Path], rates: RunRates, measure: str) -> list[str]:
    ops = list(rates.table[rates.table[measure].notna()].op)
    drawn = []
    for dimension in _FIGURES if ops else ():
        try:
            figure = figure_bytes(
                read_rates(paths, dimension, ops[:1]), dimension, measure, ops[0], "svg", STYLES["paper"]
            )
        except UsageError:  # faults of whole words have no bit
            continue
        drawn.append(html.picture(f"{ops[0]} by {dimension}", figure, "image/svg+xml"))
    return drawn
