"""Pictures of a study in class space, every point with its interval over images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from testbed.analysis.shares import MeanEstimate
from testbed.core.words.text import drawn
from testbed.sensitivity.class_space.explain.curves import ORDERS, PerturbationCurve
from testbed.sensitivity.class_space.identifiability import Identifiability
from testbed.sensitivity.class_space.memories import Memories
from testbed.sensitivity.class_space.perturbation import PerturbationEffect
from testbed.sensitivity.class_space.probe import ProbeAccuracy
from testbed.sensitivity.class_space.study import ClassSpaceStudy

_COLOURS = {
    "block": "tab:blue", "attention": "tab:orange", "mlp": "tab:green", "previous": "tab:blue", "none": "0.5",
    "projection_gradient": "tab:blue", "rollout": "tab:orange", "attnlrp": "tab:green", "random": "0.5",
}  # fmt: skip
_ORDER_TITLES = {"most_first": "the most relevant go first", "least_first": "the least relevant go first"}


def figures_of(study: ClassSpaceStudy) -> dict[str, Figure]:
    """Name -> picture of each analysis that was made."""
    figures: dict[str, Figure] = {}
    title = f"{Path(study.plan.run).name} on {Path(study.plan.data).name}"
    if study.identifiability is not None:
        figures["identifiability"] = _identifiability_figure(study.identifiability, study.random_weights, title)
        figures["branches"] = _branches_figure(study.identifiability, title)
    if study.memories is not None:
        figures["memories"] = _memories_figure(study.memories, title)
    if study.perturbations is not None:
        figures["perturbation"] = _perturbation_figure(study.perturbations, title)
    if study.curves is not None:
        figures["explanation"] = _explanation_figure(study.curves, title)
    if study.probes is not None:
        figures["probe"] = _probe_figure(study.probes, title)
    return figures


def _identifiability_figure(measured: Identifiability, random: Identifiability | None, title: str) -> Figure:
    """Mean and rate over the blocks, a row per kind of token."""
    kinds = list(dict.fromkeys(entry.tokens for entry in measured.states))
    figure, panels = _panels(len(kinds), 2, f"class identifiability, {title}")
    chances = dict(zip(("identifiability", "rate"), measured.chance, strict=True))
    for row, kind in zip(panels, kinds, strict=True):
        for axes, measure in zip(row, chances, strict=True):
            for state in ("block", "attention", "mlp"):
                entries = [e for e in measured.states if (e.tokens, e.state) == (kind, state)]
                _line(axes, [e.block for e in entries], [getattr(e, measure) for e in entries], state)
            if random is not None:
                entries = [e for e in random.states if (e.tokens, e.state) == (kind, "block")]
                x, y = [e.block for e in entries], [getattr(e, measure) for e in entries]
                _line(axes, x, y, "block, random weights", colour="0.4", style=":")
            axes.axhline(100 * chances[measure], color="0.8", linewidth=0.8)
            name = "mean identifiability" if measure == "identifiability" else "true class at rank 0"
            _label(axes, f"{kind} tokens", "block", f"{name} (%)")
    _legend(panels[0][0])
    return figure


def _branches_figure(measured: Identifiability, title: str) -> Figure:
    """Similarity change and residual match over the blocks, a row per kind of token."""
    kinds = list(dict.fromkeys(entry.tokens for entry in measured.changes)) or ["image"]
    figure, panels = _panels(len(kinds), 2, f"what attention and MLP add, {title}")
    for row, kind in zip(panels, kinds, strict=True):
        for branch in ("attention", "mlp"):
            changes = [e for e in measured.changes if (e.tokens, e.branch) == (kind, branch)]
            _line(row[0], [e.block for e in changes], [e.rises for e in changes], branch)
        for source in ("previous", "attention", "mlp", "none"):
            matches = [e for e in measured.matches if (e.tokens, e.source) == (kind, source)]
            _line(row[1], [e.block for e in matches], [e.matches for e in matches], source)
        _label(row[0], f"{kind} tokens: true-class logit rises", "block", "share of tokens (%)")
        _label(row[1], f"{kind} tokens: top-1 of the block's output is that of", "block", "share of tokens (%)")
    for axes in panels[0]:
        _legend(axes)
    return figure


def _memories_figure(memories: Memories, title: str) -> Figure:
    """Class-value agreement beside that of random weights, and key-value agreement, over the blocks."""
    figure, ((values, keys),) = _panels(1, 2, f"memories, {title}")
    for branch in ("attention", "mlp"):
        layers = [layer for layer in memories.class_value if layer.branch == branch]
        blocks = [layer.block for layer in layers]
        values.plot(blocks, [layer.mean for layer in layers], "o-", color=_COLOURS[branch], label=branch)
        random = [layer.random_mean for layer in layers]
        values.plot(blocks, random, "x:", color=_COLOURS[branch], label=f"{branch}, random weights")
        agreements = [row for row in memories.key_value if (row.branch, row.tokens) == (branch, "image")]
        blocks = [row.block for row in agreements]
        _line(keys, blocks, [row.agreement for row in agreements], f"{branch}", colour=_COLOURS[branch])
        other = [row.other_class for row in agreements]
        _line(keys, blocks, other, f"{branch}, another class", colour=_COLOURS[branch], style=":")
    _label(values, "class-value agreement", "block", "largest cosine, mean over classes")
    _label(keys, "key-value agreement, image tokens", "block", "share of tokens (%)")
    for axes in (values, keys):
        _legend(axes)
    return figure


def _perturbation_figure(effects: Sequence[PerturbationEffect], title: str) -> Figure:
    """Accuracy, and identifiability rate of the last block's image tokens, under each perturbation."""
    figure, ((accuracy, rate),) = _panels(1, 2, f"perturbations, {title}")
    names = [effect.name for effect in effects]
    _bars(accuracy, names, [effect.accuracy for effect in effects])
    last = [next(state.rate for state in effect.last_block if state.tokens == "image") for effect in effects]
    _bars(rate, names, last)
    accuracy.set(title="accuracy", ylabel="accuracy (%)")
    rate.set(title="last block, image tokens", ylabel="true class at rank 0 (%)")
    return figure


def _explanation_figure(curves: Sequence[PerturbationCurve], title: str) -> Figure:
    """Accuracy against the share of dropped tokens, a panel per order."""
    figure, (row,) = _panels(1, 2, f"perturbation curves, {title}")
    for axes, order in zip(row, ORDERS, strict=True):
        for curve in curves:
            if curve.order == order:
                label = f"{curve.method}, area {curve.area.value:.3f}"
                colour = _COLOURS[curve.method]
                _line(axes, [100 * share for share in curve.dropped], list(curve.accuracy), label, colour=colour)
        _label(axes, _ORDER_TITLES[order], "image tokens dropped (%)", "accuracy (%)")
        _legend(axes)
    return figure


def _probe_figure(probes: Sequence[ProbeAccuracy], title: str) -> Figure:
    """Probe accuracy over the blocks (mean over the positions, position 0, pooled), and of the block outputs by position."""
    figure, ((lines, by_position),) = _panels(1, 2, f"linear probes, {title}")
    for state in ("block", "attention", "mlp"):
        rows = [row for row in probes if row.state == state]
        blocks = sorted({row.block for row in rows})
        tokens = [row for row in rows if row.position != "pooled"] or rows
        means = [100 * np.mean([row.accuracy.value for row in tokens if row.block == block]) for block in blocks]
        lines.plot(blocks, means, "--", color=_COLOURS[state], label=f"{state}, mean over positions")
        for position, style in ((0, "-"), ("pooled", ":")):
            there = [row for row in rows if row.position == position]
            values = [row.accuracy for row in there]
            label = f"{state}, position 0" if position == 0 else f"{state}, pooled"
            _line(lines, [row.block for row in there], values, label, colour=_COLOURS[state], style=style)
    _label(lines, "accuracy of probes", "block", "accuracy (%)")
    _legend(lines)
    outputs = [row for row in probes if row.state == "block"]
    blocks, positions = sorted({row.block for row in outputs}), list(dict.fromkeys(row.position for row in outputs))
    grid = np.array([row.accuracy.value for row in outputs]).reshape(len(blocks), len(positions))
    image = by_position.imshow(100 * grid, aspect="auto", interpolation="nearest", cmap="viridis")
    by_position.set(title="block outputs", xlabel="probed position, in order", ylabel="block")
    by_position.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=by_position, label="accuracy (%)")
    return figure


def _panels(rows: int, columns: int, title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(5.4 * columns, 3.6 * rows + 0.4), layout="constrained")
    figure.suptitle(drawn(title))
    return figure, figure.subplots(rows, columns, squeeze=False)


def _line(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[MeanEstimate],
    label: str,
    *,
    colour: str | None = None,
    style: str = "-",
) -> None:
    """Estimates in per cent with their intervals; those of no image are left out."""
    if points := [(at, estimate) for at, estimate in zip(x, y, strict=True) if estimate.images]:
        places = [at for at, _ in points]
        values, errors = _with_errors([estimate for _, estimate in points])
        colour = colour or _COLOURS.get(label)
        axes.errorbar(
            places, values, errors, fmt=f"o{style}", color=colour, label=label, markersize=3, capsize=2, elinewidth=0.8
        )


def _bars(axes: Axes, names: Sequence[str], estimates: Sequence[MeanEstimate]) -> None:
    shown = [(name, estimate) for name, estimate in zip(names, estimates, strict=True) if estimate.images]
    values, errors = _with_errors([estimate for _, estimate in shown])
    axes.bar([name for name, _ in shown], values, yerr=errors, capsize=3, color="tab:blue", alpha=0.8)
    axes.grid(alpha=0.3, axis="y")


def _with_errors(estimates: Sequence[MeanEstimate]) -> tuple[Any, Any]:
    """Values in per cent, and their distances from both limits."""
    values, low, high = (100 * np.array([getattr(e, end) for e in estimates]) for end in ("value", "low", "high"))
    return values, np.maximum([values - low, high - values], 0)


def _legend(axes: Axes) -> None:
    """A legend above what is drawn: the axis gets room for it."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.4 * (high - low))
    axes.legend(fontsize="x-small", loc="upper left", ncols=2)


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
