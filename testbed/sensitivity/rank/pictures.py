"""Scores against measured rates, and what protecting the first of them would remove, as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from testbed.core.folder.files import atomic_path
from testbed.core.words.text import drawn


def validation_picture(path: Path, validation: dict[str, Any]) -> None:
    """A picture of the validation. found: of `ranking.check`. A scatter per method with the rates' intervals, and the
    protection curves."""
    methods, curves = list(validation["by"]), validation["protection"]
    count = len(methods) + bool(curves)
    columns = 2 if count == 4 else min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(5.4 * columns, 4.2 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in panels[count:]:
        unused.remove()
    measured = {rates["component"]: rates for rates in validation["measured"]}
    for axes, by in zip(panels, methods, strict=False):
        _scatter(axes, by, validation["by"][by], validation["scores"][by], measured)
    if curves:
        _protection(panels[count - 1], curves)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _scatter(axes: Any, by: str, validation: Any, scores: dict[str, float], measured: dict[str, Any]) -> None:
    names = [name for name in scores if name in measured]
    x = np.array([scores[name] for name in names])
    rate, low, high = (100 * np.array([measured[name][key] for name in names]) for key in ("rate", "low", "high"))
    axes.errorbar(x, rate, [rate - low, high - rate], fmt="o", markersize=4, elinewidth=0.8, color="tab:blue")
    if len(names) <= 16:
        for name, a, b in zip(names, x, rate, strict=True):
            label = drawn(name.removeprefix("block."))
            axes.annotate(label, (a, b), xytext=(3, 3), textcoords="offset points", fontsize=7)
    spearman = validation.spearman
    text = "not defined" if spearman.low is None else f"{spearman.value:.2f} [{spearman.low:.2f}, {spearman.high:.2f}]"
    axes.set(title=f"{by}: Spearman {text}", xlabel=f"{by} score", ylabel="SDC-1 rate (%)")
    axes.grid(alpha=0.3)


def _protection(axes: Any, curves: list[Any]) -> None:
    for curve in curves:
        style = {"measured": "k-", "random": "k:"}.get(curve.by, "-")
        label = {"measured": "measured ideal"}.get(curve.by, curve.by)
        axes.plot(100 * curve.protected, 100 * curve.removed, style, label=f"{label}, area {curve.area:.2f}")
    axes.set(title="selective protection", xlabel="components protected (%)", ylabel="SDC-1 removed (%)")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
