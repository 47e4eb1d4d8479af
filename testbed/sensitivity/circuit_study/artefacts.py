"""The files of a study of circuits.

DIR/circuits.json       everything
DIR/components.csv      scores of the components
DIR/faithfulness.csv    a row for every curve and size
DIR/areas.csv           CPR and CMD of every curve
DIR/edges.csv           scores of the edges, the largest first
DIR/faithfulness.png    the curves
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from testbed.core.folder.figures import save_figure
from testbed.core.folder.files import csv_text, write_text
from testbed.sensitivity.circuit_study.records import RANDOM, CircuitStudy

NUMBERS, COMPONENTS, EDGES = "circuits.json", "components.csv", "edges.csv"
CURVES, AREAS, PICTURE = "faithfulness.csv", "areas.csv", "faithfulness.png"
_AREAS = ("cpr", "cmd", "cpr_gain", "cmd_gain")


def write_study(folder: Path, study: CircuitStudy) -> CircuitStudy:
    """Writes the files; the study with their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {name: value for name, value in study.to_json().items() if name != "files"}
    write_text(folder / NUMBERS, json.dumps(record, indent=1, allow_nan=False) + "\n")
    tables = {
        COMPONENTS: component_rows(study),
        CURVES: curve_rows(study),
        AREAS: area_rows(study),
        EDGES: [asdict(edge) for edge in study.edges],
    }
    written = [NUMBERS]
    for name, rows in tables.items():
        if rows:
            write_text(folder / name, csv_text(rows))
            written.append(name)
    if study.curves:
        save_figure(folder / PICTURE, faithfulness_figure(study))
        written.append(PICTURE)
    return replace(study, files=tuple(folder / name for name in written))


def component_rows(study: CircuitStudy) -> list[dict[str, Any]]:
    """A row for every component: its score by each method."""
    names = list(next(iter(study.scores.values())))
    return [{"component": name} | {by: scores[name] for by, scores in study.scores.items()} for name in names]


def curve_rows(study: CircuitStudy) -> list[dict[str, Any]]:
    """A row for every curve and size."""
    return [{"by": curve.by} | asdict(point) for curve in study.curves for point in curve.points]


def area_rows(study: CircuitStudy) -> list[dict[str, Any]]:
    """A row for every curve: its areas with their intervals; empty where the random order is held against itself."""
    return [
        {"by": curve.by}
        | {name: value for area in _AREAS for name, value in _cells(area, getattr(curve, area))}
        | {"random_as_good": curve.random_as_good}
        for curve in study.curves
    ]


def _cells(area: str, interval: Any) -> Iterator[tuple[str, float | None]]:
    for end in ("value", "low", "high"):
        yield area if end == "value" else f"{area}_{end}", None if interval is None else getattr(interval, end)


def faithfulness_figure(study: CircuitStudy) -> Figure:
    """Every curve with its interval, over the share of the components."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for curve in study.curves:
        chance = curve.by == RANDOM
        x = [100 * point.share for point in curve.points]
        label = f"{curve.by}: CPR {curve.cpr.value:.2f}, CMD {curve.cmd.value:.2f}"
        (line,) = axes.plot(
            x, [point.faithfulness for point in curve.points], "k:" if chance else ".-", label=label, markersize=5
        )
        ends = [point.low for point in curve.points], [point.high for point in curve.points]
        axes.fill_between(x, *ends, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set(
        title=f"circuits of {Path(study.run).name}, {study.images:,} test images, {100 * study.confidence:g} % intervals",
        xlabel=f"components kept (% of {study.components})",
        ylabel=f"faithfulness ({study.metric.replace('_', ' ')})",
    )
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure
