"""Six views of several models: what they cost, what they get right, and how vulnerable they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from testbed.bench.tradeoff import Entry, Tradeoff
from testbed.core.files import atomic_path
from testbed.core.text import drawn


def tradeoff_figure(path: Path, found: Tradeoff) -> None:
    figure = Figure(figsize=(13, 7), layout="constrained")
    panels = figure.subplots(2, 3)
    entries = list(found.entries)
    names = [drawn(Path(entry.model).name) for entry in entries]
    _front(panels[0, 0], entries, names, found.batch)
    _bars(panels[0, 1], names, [[e.latency[0].p50_ms, e.latency[0].p90_ms, e.latency[0].p99_ms] for e in entries],
          ("p50", "p90", "p99"), f"latency at batch {found.batch} (ms)")  # fmt: skip
    _sdc(panels[0, 2], entries, names)
    macs, times = (
        [f(e) / f(entries[0]) for e in entries] for f in (lambda e: e.latency[0].macs, lambda e: e.latency[0].p50_ms)
    )
    _bars(panels[1, 0], names, np.array([macs, times]).T.tolist(), ("MACs", "latency"), f"of {names[0]}'s")
    sure = [[e.quality.confidence_right or np.nan, e.quality.confidence_wrong or np.nan] for e in entries]
    _bars(panels[1, 1], names, sure, ("right", "wrong"), "mean confidence")
    scores = [[e.quality.top1, e.quality.top5, e.quality.f1] for e in entries]
    _bars(panels[1, 2], names, scores, ("top-1", "top-5", "macro F1"), "share")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _front(axes: Any, entries: list[Entry], names: list[str], batch: int) -> None:
    x = [entry.latency[0].p50_ms for entry in entries]
    y = [100 * entry.quality.top1 for entry in entries]
    colours = ["tab:blue" if entry.pareto else "0.7" for entry in entries]
    axes.scatter(x, y, c=colours)
    for name, a, b in zip(names, x, y, strict=True):
        axes.annotate(name, (a, b), xytext=(4, 4), textcoords="offset points", fontsize=7)
    axes.set(title="Pareto front in blue", xlabel=f"median latency at batch {batch} (ms)", ylabel="accuracy (%)")
    axes.grid(alpha=0.3)


def _sdc(axes: Any, entries: list[Entry], names: list[str]) -> None:
    known = [(name, e.vulnerability) for name, e in zip(names, entries, strict=True) if e.vulnerability]
    axes.set(title="SDC-1 of single flips in activations (%)")
    if not known:
        axes.text(0.5, 0.5, "no campaign was named", ha="center", transform=axes.transAxes)
        return
    rate, low, high = (100 * np.array([getattr(v, key) for _, v in known]) for key in ("rate", "low", "high"))
    axes.errorbar(range(len(known)), rate, [rate - low, high - rate], fmt="o")
    axes.set_xticks(range(len(known)), [name for name, _ in known], rotation=30, ha="right", fontsize=7)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)


def _bars(axes: Any, names: list[str], values: list[list[float]], series: tuple[str, ...], title: str) -> None:
    width = 0.8 / len(series)
    for number, label in enumerate(series):
        places = np.arange(len(names)) + (number - (len(series) - 1) / 2) * width
        axes.bar(places, [row[number] for row in values], width, label=label)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=7)
    axes.set(title=title)
    axes.legend(fontsize=7)
