"""Figures of rates for papers: by block, bit or kind of layer, with intervals; several runs in one figure."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from testbed.core.errors import UsageError
from testbed.core.folder.files import write_bytes
from testbed.core.words.nearest import unknown
from testbed.core.words.text import drawn
from testbed.publish.rates import RunRates, read_rates, run_labels

# Okabe and Ito's colours: told apart with every kind of colour blindness, and by their grey values on paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
DIMENSIONS = ("block", "bit", "kind", "bit_class", "tier", "site")
AXIS_NAMES = {"block": "block", "bit": "bit", "tier": "confidence tier"}
MEASURE_NAMES = {"sdc1": "SDC-1", "outside": "outside tolerance", "nonfinite": "non-finite"}
FORMATS = ("svg", "pdf", "png")
_ORDERED = ("block", "bit", "tier")  # on a horizontal axis of numbers; the others are names below one another
_MOST_NAMES = 16  # on a horizontal axis


@dataclass(frozen=True)
class FigureStyle:
    """Attributes: width: of the figure, inches; height: of a panel with numbers below; line: of a name; font: points."""

    width: float
    height: float
    line: float
    font: float


STYLES = {
    "paper": FigureStyle(3.5, 1.75, 0.17, 7),  # one column of a two-column page
    "wide": FigureStyle(7.16, 2.1, 0.18, 8),  # both columns
    "slides": FigureStyle(10, 4, 0.32, 16),
}


def write_figures(
    paths: Sequence[Path],
    to: Path,
    *,
    by: Sequence[str] = ("block", "bit", "kind"),
    measure: str = "sdc1",
    op: str = "flip",
    form: str = "svg",
    style: str = "paper",
) -> list[Path]:
    """Draw one figure per dimension, ``rates-by-DIMENSION.FORM``, in the folder ``to``.

    A panel is of one target and place (activations, weights), a series of one run. Raises UsageError for what is not known,
    and where nothing is to be drawn; else as `read_rates`.
    """
    for what, name, known in (
        ("figure style", style, STYLES),
        ("figure format", form, FORMATS),
        ("measure", measure, MEASURE_NAMES),
        *(("dimension", dimension, DIMENSIONS) for dimension in by),
    ):
        if name not in known:
            raise UsageError(unknown(what, name, known))
    written = []
    for dimension in dict.fromkeys(by):
        rates = read_rates(paths, dimension, [op])
        path = to / f"rates-by-{dimension.replace('_', '-')}.{form}"
        write_bytes(path, figure_bytes(rates, dimension, measure, op, form, STYLES[style]))
        written.append(path)
    return written


def figure_bytes(rates: RunRates, dimension: str, measure: str, op: str, form: str, style: FigureStyle) -> bytes:
    """The same bytes for the same rates: no date is written."""
    with mpl.rc_context(figure_settings(style)):
        figure, made = rates_figure(rates, dimension, measure, op, style), io.BytesIO()
        dateless: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None, "ModDate": None}, "png": {}}[
            form
        ]
        figure.savefig(made, format=form, metadata=dateless)
    return made.getvalue()


def figure_settings(style: FigureStyle) -> dict[Any, Any]:
    """Settings of the drawing library with which the same figure is the same file everywhere."""
    return {
        "font.size": style.font,
        "axes.titlesize": style.font,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.6,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "axes.grid": True,
        "grid.color": "#dddddd",
        "grid.linewidth": 0.5,
        "axes.axisbelow": True,
        "legend.frameon": False,
        "lines.markersize": style.font / 2.2,
        "pdf.fonttype": 42,  # TrueType, embedded: publishers refuse Type 3
        "svg.fonttype": "path",  # letters as outlines: the same everywhere
        "svg.hashsalt": "testbed",
        "savefig.dpi": 300,
    }


def rates_figure(rates: RunRates, dimension: str, measure: str, op: str, style: FigureStyle) -> Figure:
    """A panel per target and place. Raises UsageError where nothing is to be drawn."""
    table = rates.table[rates.table[measure].notna() & (rates.table[dimension].notna() | (dimension == "block"))]
    if table.empty:
        raise UsageError(
            f"no fault of {op!r} has a rate of {measure!r} by {dimension}; choose another --measure or --op"
        )
    panels = list(dict.fromkeys(zip(table.target, table["where"], strict=True)))
    series = _series(rates, table, dimension)
    ordered = dimension in _ORDERED
    heights = [
        style.height if ordered else style.line * (part[dimension].nunique() * max(1, 0.6 * len(series)) + 3)
        for part in (table[(table.target == t) & (table["where"] == w)] for t, w in panels)
    ]
    figure = Figure(figsize=(style.width, sum(heights) + style.line * (1.5 + len(series) * (len(series) > 1))))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (target, where) in zip(axes, panels, strict=True):
        part = table[(table.target == target) & (table["where"] == where)]
        (_ordered_panel if ordered else _named_panel)(axis, part, series, dimension, measure)
        several = len(dict.fromkeys(target for target, _ in panels)) > 1
        noun = "activations" if where == "activation" else "weights"
        axis.set_title(f"{target}: {op} in {noun}" if several else f"{op} in {noun}")
    if len(series) > 1:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=1)
    return figure


@dataclass(frozen=True)
class _Series:
    label: str
    run: str
    format: str | None
    colour: str
    marker: str
    shift: float

    def rows(self, table: pd.DataFrame) -> pd.DataFrame:
        of_run = table[table.run == self.run]
        return of_run if self.format is None else of_run[of_run.format == self.format]


def _series(rates: RunRates, table: pd.DataFrame, dimension: str) -> list[_Series]:
    """One per run; by bit one per run and number format, as bit 7 is a sign in int8 and a mantissa bit in fp32."""
    labels = run_labels(rates.table)
    keys: list[tuple[str, str | None]] = [(run, None) for run in labels]
    if dimension == "bit" and table.format.nunique() > 1:
        keys = list(dict.fromkeys(zip(table.run, table.format, strict=True)))
    shifts = (np.arange(len(keys)) - (len(keys) - 1) / 2) * (0.7 / max(2, len(keys)))
    return [
        _Series(
            labels[run] if form is None else f"{labels[run]}, {form} words" if len(labels) > 1 else f"{form} words",
            run,
            form,
            COLOURS[n % len(COLOURS)],
            MARKERS[n % len(MARKERS)],
            float(shifts[n]),
        )
        for n, (run, form) in enumerate(keys)
    ]


def _ordered_panel(axis: Any, part: pd.DataFrame, series: Sequence[_Series], dimension: str, measure: str) -> None:
    values: list[int | None] = sorted(part[dimension].dropna().astype(int).unique())
    names = [str(value) if len(values) <= _MOST_NAMES or int(value or 0) % 4 == 0 else "" for value in values]
    if part[dimension].isna().any():
        values, names = [*values, None], [*names, "outside"]
    places: Mapping[Any, float] = {value: float(at) for at, value in enumerate(values)}
    for line, rows, positions in _drawn(part, series, dimension, places):
        y, errors = _percent(rows, measure)
        axis.errorbar(positions, y, errors, fmt=line.marker, color=line.colour, label=drawn(line.label), elinewidth=0.8)
    axis.set_ylim(bottom=_below_zero(axis.get_ylim()[1]))
    axis.set_xlabel(AXIS_NAMES[dimension])
    axis.set_ylabel(f"{MEASURE_NAMES[measure]} (%)")
    axis.set_xticks(list(places.values()), names)


def _named_panel(axis: Any, part: pd.DataFrame, series: Sequence[_Series], dimension: str, measure: str) -> None:
    names = list(dict.fromkeys(part[dimension]))
    places = {name: float(-at) for at, name in enumerate(names)}
    for line, rows, positions in _drawn(part, series, dimension, places, upwards=False):
        x, errors = _percent(rows, measure)
        axis.errorbar(
            x,
            positions,
            None,
            errors,
            fmt=line.marker,
            color=line.colour,
            label=drawn(line.label),
            elinewidth=0.8,
            capsize=0,
        )
    axis.set_xlim(left=0)
    axis.set_yticks(list(places.values()), [drawn(str(name)) for name in names])
    axis.set_xlabel(f"{MEASURE_NAMES[measure]} (%)")


def _drawn(
    part: pd.DataFrame,
    series: Sequence[_Series],
    dimension: str,
    places: Mapping[Any, float],
    upwards: bool = True,
) -> Iterator[tuple[_Series, pd.DataFrame, list[float]]]:
    for line in series:
        rows = line.rows(part)
        keys = [None if pd.isna(value) else value for value in rows[dimension]]
        yield line, rows, [places[key] + (line.shift if upwards else -line.shift) for key in keys]


def _below_zero(top: float) -> float:
    """Where an axis begins, so that a marker at zero is whole."""
    return -0.03 * top


def _percent(rows: pd.DataFrame, measure: str) -> tuple[Any, Any]:
    rate = 100 * rows[measure].to_numpy(float)
    low, high = (100 * rows[f"{measure}_{end}"].to_numpy(float) for end in ("low", "high"))
    return rate, np.maximum(0, np.stack([rate - low, high - rate]))
