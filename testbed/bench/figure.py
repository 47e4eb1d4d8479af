"""Six views of several models: what they cost, what they get right, and how vulnerable they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.figure import Figure

from testbed.bench.tradeoff import Tradeoff, TradeoffEntry
from testbed.core.folder.figures import figure_bytes
from testbed.core.folder.files import write_bytes
from testbed.core.words.text import drawn, visible

# The colours of the report's style sheet: page, panel, ink, soft, rule, and those of series.
LIGHT = ("#ffffff", "#ffffff", "#16191d", "#565e69", "#d9dde3", ("#0d6b78", "#b8430b", "#3b4cc0"))
DARK = ("#14171b", "#14171b", "#e8eaed", "#a4acb8", "#343a43", ("#63c3d1", "#f28a4b", "#93a4ff"))
_MARKERS = ("o", "D", "s")
_LINE_LETTERS, _LINES = 28, 4  # of a name
_LINE = 0.075  # height of a name, as a share of its panel


def tradeoff_figure(path: Path, tradeoff: Tradeoff) -> None:
    """The picture as a PNG file."""
    write_bytes(path, tradeoff_png(tradeoff))


def tradeoff_png(tradeoff: Tradeoff, dark: bool = False) -> bytes:
    """The picture; ``dark``: for a page with a dark background."""
    page, panel, ink, soft, rule, series = DARK if dark else LIGHT
    colours = {"figure.facecolor": page, "axes.facecolor": panel, "savefig.facecolor": page, "text.color": ink}
    colours |= {"axes.edgecolor": rule, "axes.labelcolor": soft, "xtick.color": soft, "ytick.color": ink}
    fonts = {"font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left"}
    spines = {"axes.spines.top": False, "axes.spines.right": False, "grid.color": rule, "axes.axisbelow": True}
    style: dict[Any, Any] = {**colours, **fonts, **spines, "axes.prop_cycle": cycler(color=series)}
    with mpl.rc_context(style):
        return figure_bytes(draw_tradeoff(tradeoff, soft))


def draw_tradeoff(tradeoff: Tradeoff, soft: str) -> Figure:
    """Draw the trade-off as six panels. soft: colour of what is only to guide the eye."""
    entries = list(tradeoff.entries)
    names = _names(entries)
    figure = Figure(
        figsize=(14, 5.4 + 0.9 * max(0, len(entries) - 2)),
    )
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    panels = figure.subplots(2, 3)
    _front(panels[0, 0], entries, names, tradeoff.batch, soft)
    quantiles = {q: [getattr(e.latency[0], f"{q}_ms") for e in entries] for q in ("p50", "p90", "p99")}
    _dots(panels[0, 1], names, quantiles, "Latency", f"ms at batch {tradeoff.batch}")
    _sdc(panels[0, 2], entries, names, soft)
    first = entries[0].latency[0]
    ratios = {
        "MACs": [e.latency[0].macs / first.macs for e in entries],
        "median time": [e.latency[0].p50_ms / first.p50_ms for e in entries],
    }
    _dots(panels[1, 0], names, ratios, f"Cost relative to {names[0]}", "1: the same")
    sure = {
        "where right": [e.quality.confidence_right for e in entries],
        "where wrong": [e.quality.confidence_wrong for e in entries],
    }
    _dots(panels[1, 1], names, sure, "Mean confidence of the predictions", "softmax of the predicted class")
    scores = {
        "top-1": [100 * e.quality.top1 for e in entries],
        "top-5": [100 * e.quality.top5 for e in entries],
        "macro F1": [100 * e.quality.f1 for e in entries],
    }
    _dots(panels[1, 2], names, scores, "Quality without faults", "%")
    return figure


def _names(entries: Sequence[TradeoffEntry]) -> list[str]:
    """Names of the folders, with those above them where two are alike. Long ones are broken, or nothing is left to draw
    in."""
    folders = [Path(entry.model) for entry in entries]
    short = [folder.name for folder in folders]
    names = [name if short.count(name) == 1 else str(folder) for name, folder in zip(short, folders, strict=True)]
    return ["\n".join(drawn(line) for line in wrap(visible(name), _LINE_LETTERS)[:_LINES]) for name in names]


def _front(axes: Any, entries: Sequence[TradeoffEntry], names: Sequence[str], batch: int, soft: str) -> None:
    x = np.array([entry.latency[0].p50_ms for entry in entries])
    y = np.array([100 * entry.quality.top1 for entry in entries])
    axes.scatter(x, y, s=46, c=["C0" if entry.pareto else "none" for entry in entries], edgecolors="C0")
    axes.margins(0.3, 0.3)
    low, high = axes.get_ylim()
    middle = (x.min() + x.max()) / 2
    for n, level in zip(np.argsort(y), apart(((np.sort(y) - low) / (high - low)).tolist(), _LINE), strict=True):
        side = 1 if x[n] <= middle else -1
        at = low + level * (high - low)
        axes.annotate(
            names[n],
            (x[n], y[n]),
            (12 * side, (at - y[n]) / (high - low) * 150),
            textcoords="offset points",
            arrowprops={"arrowstyle": "-", "color": soft, "lw": 0.6},
            fontsize=9,
            va="center",
            ha="left" if side > 0 else "right",
        )
    axes.set(title="Accuracy against latency", ylabel="top-1, %")
    axes.set_xlabel(f"median ms at batch {batch} (filled: Pareto front)")
    axes.grid(alpha=0.6)


def apart(levels: Sequence[float], least: float) -> list[float]:
    """Ascending places, moved as little as a pass upwards needs so that neighbours are ``least`` apart."""
    moved: list[float] = []
    for level in levels:
        moved.append(max(float(level), moved[-1] + least) if moved else float(level))
    return moved


def _sdc(axes: Any, entries: Sequence[TradeoffEntry], names: Sequence[str], soft: str) -> None:
    axes.set(title="SDC-1 of single flips in activations", xlabel="%, with 95 % intervals")
    known = [(n, e.vulnerability) for n, e in enumerate(entries) if e.vulnerability]
    for n, v in known:
        rate, low, high = 100 * v.rate, 100 * v.low, 100 * v.high
        axes.errorbar(rate, n, xerr=[[rate - low], [high - rate]], fmt="o", color="C1", capsize=3)
    for n in {*range(len(entries))} - {n for n, _ in known}:
        axes.text(0.02, n, "no campaign was named", va="center", color=soft, transform=axes.get_yaxis_transform())
    _rows(axes, names)
    axes.set_xlim(left=0)


def _dots(axes: Any, names: Sequence[str], series: Mapping[str, Sequence[float | None]], title: str, unit: str) -> None:
    """A row for each model, a mark for each series: no mark covers another's name."""
    for number, (label, values) in enumerate(series.items()):
        known = [(value, n) for n, value in enumerate(values) if value is not None]
        shift = 0.16 * (number - (len(series) - 1) / 2)
        x, y = [value for value, _ in known], [n + shift for _, n in known]
        axes.plot(x, y, _MARKERS[number], label=label, markersize=7)
    axes.set(title=title, xlabel=unit)
    axes.margins(x=0.12)
    _rows(axes, names)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncol=len(series), frameon=False, fontsize=9)


def _rows(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)  # the first model on top
    axes.grid(alpha=0.6, axis="x")
    axes.tick_params(axis="y", length=0)
