"""A table of rates as a document: CSV, JSON, LaTeX, Markdown, or a page with figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from testbed.core.errors import UsageError
from testbed.core.folder.files import write_text
from testbed.core.words.nearest import unknown
from testbed.publish import formats
from testbed.publish.rates import RunRates

_FORM_OF = {".csv": "csv", ".json": "json", ".tex": "latex", ".md": "markdown", ".html": "html"}


def form_of(file: Path) -> str:
    """The form that a file's ending asks for. Raises UsageError for another ending."""
    if file.suffix.lower() not in _FORM_OF:
        raise UsageError(unknown("ending of a table of rates", file.suffix, _FORM_OF))
    return _FORM_OF[file.suffix.lower()]


def format_rates(form: str, folders: Sequence[Path], rates: RunRates, measures: tuple[str, ...]) -> str:
    """Format the rates of the runs in these folders: "csv", "json", "latex", "markdown" or "html"."""
    if form == "html":
        from testbed.publish.page import rates_page

        return rates_page(folders, rates, measures)
    makers: dict[str, Callable[[RunRates, tuple[str, ...]], str]] = {
        "csv": formats.rates_csv,
        "latex": formats.rates_latex,
        "markdown": formats.rates_markdown,
        "json": lambda *of: json.dumps(formats.rates_record(*of).to_json(), indent=1, allow_nan=False) + "\n",
    }
    return makers[form](rates, measures)


def write_rates(file: Path, folders: Sequence[Path], rates: RunRates, measures: tuple[str, ...]) -> None:
    """Write the rates in the form of the file's ending."""
    write_text(file, format_rates(form_of(file), folders, rates, measures))
