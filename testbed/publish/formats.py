"""A table of rates as CSV, JSON, LaTeX or Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from pydantic import JsonValue

from testbed.campaign.summary.rate_table import ENDS
from testbed.campaign.summary.tally import MEASURES
from testbed.core.words.text import visible
from testbed.publish.display import rates_display
from testbed.publish.rates import RunRates

_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#])")


RateCell = str | float | None


@dataclass(frozen=True)
class PublishedRates:
    """Rates of several runs. confidence: by run; rates: cells by column, of each row; from 0 to 1."""

    by: list[str]
    measures: list[str]
    confidence: dict[str, float]
    rates: list[dict[str, RateCell]]

    def to_json(self) -> dict[str, JsonValue]:
        return asdict(self)


def rates_record(rates: RunRates, measures: Sequence[str]) -> PublishedRates:
    """The table as a record, one row after the other."""
    table = _kept(rates, measures)
    records = [{str(name): _plain(value) for name, value in record.items()} for record in table.to_dict("records")]
    return PublishedRates(list(rates.by), list(measures), dict(rates.confidence), records)


def rates_csv(rates: RunRates, measures: Sequence[str]) -> str:
    """Numbers from 0 to 1, one row per run, fault model and value."""
    return str(_kept(rates, measures).to_csv(index=False, lineterminator="\n"))


def rates_latex(rates: RunRates, measures: Sequence[str]) -> str:
    """A table environment of the booktabs package."""
    display = rates_display(rates, measures)
    columns = "".join("r" if number else "l" for number in display.numbers)
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{latex(display.caption)}.}}",
        rf"  \begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        "    " + _latex_row(display.headings),
        r"    \midrule",
        *("    " + _latex_row(row) for row in display.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def rates_markdown(rates: RunRates, measures: Sequence[str]) -> str:
    """A pipe table, its caption above."""
    display = rates_display(rates, measures)
    rule = "|".join("---:" if number else "---" for number in display.numbers)
    lines = [markdown(display.caption), "", _markdown_row(map(markdown, display.headings)), f"|{rule}|"]
    for row in display.rows:  # numbers and intervals stay as they are
        cells = zip(row, display.numbers, strict=True)
        lines.append(_markdown_row(cell if number else markdown(cell) for cell, number in cells))
    return "\n".join(lines) + "\n"


def latex(text: str) -> str:
    """Text of any origin for LaTeX."""
    return "".join(_LATEX.get(character, character) for character in visible(text))


def markdown(text: str) -> str:
    """Text of any origin for Markdown."""
    return _MARKDOWN.sub(r"\\\1", visible(text))


def _latex_row(cells: Sequence[str]) -> str:
    protected = [f"{{{cell}}}" if cell.startswith("[") else cell for cell in map(latex, cells)]
    return " & ".join(protected) + r" \\"


def _markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plain(value: Any) -> RateCell:
    return None if pd.isna(value) else value.item() if isinstance(value, np.generic) else value


def _kept(rates: RunRates, measures: Sequence[str]) -> pd.DataFrame:
    left_out = [f"{m}{end}" for m in MEASURES if m not in measures for end in ("", *(f"_{end}" for end in ENDS))]
    return rates.table.drop(columns=left_out)
