"""Scores against measured rates, and what protecting the first of them would remove, as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from testbed.core.folder.figures import save_figure
from testbed.core.words.text import drawn
from testbed.sensitivity.rank.protection import ProtectionCurve
from testbed.sensitivity.rank.ranking import CheckedRanking, MeasuredComponent
from testbed.sensitivity.rank.verdict import Validation


def validation_picture(path: Path, checked: CheckedRanking) -> None:
    """Draws a scatter per method with the rates' intervals, and the protection curves."""
    methods, curves = list(checked.by), checked.protection
    count = len(methods) + bool(curves)
    columns = 2 if count == 4 else min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(5.4 * columns, 4.2 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in panels[count:]:
        unused.remove()
    measured = {component.component: component for component in checked.measured}
    for axes, by in zip(panels, methods, strict=False):
        _scatter(axes, by, checked.by[by], checked.scores[by], measured)
    if curves:
        _protection(panels[count - 1], curves)
    save_figure(path, figure)


def _scatter(
    axes: Axes,
    by: str,
    validation: Validation,
    scores: Mapping[str, float],
    measured: Mapping[str, MeasuredComponent],
) -> None:
    names = [name for name in scores if name in measured]
    x = np.array([scores[name] for name in names])
    intervals = [(measured[name].rate, measured[name].low, measured[name].high) for name in names]
    rate, low, high = 100 * np.array(intervals).reshape(-1, 3).T
    axes.errorbar(x, rate, [rate - low, high - rate], fmt="o", markersize=4, elinewidth=0.8, color="tab:blue")
    if len(names) <= 16:
        for name, a, b in zip(names, x, rate, strict=True):
            label = drawn(name.removeprefix("block."))
            axes.annotate(label, (a, b), xytext=(3, 3), textcoords="offset points", fontsize=7)
    spearman = validation.spearman_true
    text = "not defined" if spearman.low is None else f"{spearman.value:.2f} [{spearman.low:.2f}, {spearman.high:.2f}]"
    if validation.comparisons > 1 and validation.p_adjusted is not None:
        text += f"\np {validation.p_adjusted:.2g}, corrected for {validation.comparisons} comparisons"
    axes.set(title=f"{by}: Spearman {text}", xlabel=f"{by} score", ylabel="SDC-1 rate (%)")
    axes.grid(alpha=0.3)


def _protection(axes: Axes, curves: Sequence[ProtectionCurve]) -> None:
    for curve in curves:
        style = {"measured": "k-", "random": "k:"}.get(curve.by, "-")
        label = {"measured": "measured ideal"}.get(curve.by, curve.by)
        axes.plot(100 * curve.protected, 100 * curve.removed, style, label=f"{label}, area {curve.area:.2f}")
    axes.set(title="selective protection", xlabel="components protected (%)", ylabel="SDC-1 removed (%)")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
