"""Figures of a trade-off of protection: overhead against what is left, and hypothetical beside real protection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from testbed.bench.figure import DARK, LIGHT
from testbed.compare.record import ComparedRate
from testbed.core.folder.figures import FigureFormat, figure_bytes
from testbed.core.words.text import drawn
from testbed.protect.paired.record import EventName
from testbed.protect.tradeoff.front import front_order
from testbed.protect.tradeoff.record import CostedModel, HypotheticalCurve, ProtectionTradeoff, TradeoffPoint
from testbed.publish.figures import COLOURS, MARKERS, MEASURE_NAMES, STYLES, figure_settings

FIGURES = ("tradeoff", "hypothetical")
_STYLE = STYLES["wide"]
_FILLS = {"front": "full", "undecided": "left", "dominated": "none"}
_MARKER = 6  # points: so large that a half filled one is seen to be
_PLAIN_COLOUR = {False: "#000000", True: "#ffffff"}


def tradeoff_figure_bytes(weighed: ProtectionTradeoff, name: str, form: FigureFormat, dark: bool = False) -> bytes:
    """A figure as the content of a file. name: one of `FIGURES`; dark: for a page with a dark background."""
    draw = {"tradeoff": draw_tradeoff, "hypothetical": draw_hypothetical}[name]
    page, panel, ink, soft, rule, _ = DARK if dark else LIGHT
    colours = {"figure.facecolor": page, "axes.facecolor": panel, "savefig.facecolor": page, "text.color": ink}
    colours |= {"axes.edgecolor": soft, "axes.labelcolor": ink, "xtick.color": ink, "ytick.color": ink}
    settings: dict[Any, Any] = {**figure_settings(_STYLE), **colours, "grid.color": rule}
    with mpl.rc_context(settings):
        return figure_bytes(draw(weighed, dark), form, dpi=200)


def draw_tradeoff(weighed: ProtectionTradeoff, dark: bool = False) -> Figure:
    """Latency that each model adds against what it leaves, both with intervals, and the Pareto front of the estimates."""
    looks = _ModelLooks(weighed, dark)

    def panel(axis: Any, points: Sequence[TradeoffPoint]) -> None:
        costs = [looks.models[point.model].latency[0].ratio for point in points]
        front = front_order(costs, [point.standing for point in points])
        x, y = [100 * (costs[n] - 1) for n in front], [100 * points[n].left.rate for n in front]
        axis.plot(x, y, drawstyle="steps-post", color=looks.plain, linewidth=0.8, alpha=0.6, zorder=1)
        for point in points:
            row = looks.models[point.model].latency[0]
            value, ends = 100 * (row.ratio - 1), _ends(row.ratio, row.low, row.high)
            look = looks.marker(point.model)
            axis.errorbar(
                value,
                100 * point.left.rate,
                _errors(point.left),
                ends,
                elinewidth=0.8,
                fillstyle=_FILLS[point.standing],
                markerfacecoloralt=axis.get_facecolor(),
                markersize=_MARKER,
                **look,
            )
        axis.set_ylim(bottom=-0.03 * axis.get_ylim()[1])

    figure = _panels(weighed, panel, looks)
    return _labelled(
        figure,
        f"latency added at batch {weighed.batch} (% of the plain model's)",
        "line: Pareto front; half filled: beaten as estimated; hollow: shown to be beaten",
    )


def draw_hypothetical(weighed: ProtectionTradeoff, dark: bool = False) -> Figure:
    """What would be left if covered sites lost all of an event, along the order of placement, beside what models leave."""
    looks = _ModelLooks(weighed, dark)

    def panel(axis: Any, points: Sequence[TradeoffPoint]) -> None:
        first = points[0]
        for curve in weighed.curves:
            if _key(curve) == _key(first):
                _curve(axis, curve, looks.colour_of_passes(curve.passes), f"places of {', '.join(curve.passes)}")
        for point in points[1:]:
            x = _curve_cost(weighed, looks.models[point.model])
            look = looks.marker(point.model)
            expected = [a for a in weighed.removals if a.model == point.model and _key(a) == _key(point)]
            for account in expected:
                hoped = 100 * point.before.rate * (1 - account.expected.share)
                axis.plot([x, x], [hoped, 100 * point.left.rate], ":", color=look["color"], linewidth=0.8)
                axis.plot(x, hoped, look["fmt"], color=look["color"], fillstyle="none")
            axis.errorbar(x, 100 * point.left.rate, _errors(point.left), elinewidth=0.8, **look)
        axis.set_ylim(bottom=-0.03 * axis.get_ylim()[1])

    figure = _panels(weighed, panel, looks)
    unit = f"latency at batch {weighed.batch}" if _is_latency(weighed) else "multiply-accumulates"
    return _labelled(
        figure,
        f"cost (% of the plain model's {unit})",
        "if covered sites lost all: steps, places by gain per cost; crosses, the exact choice; hollow, a model's own places\n"
        "filled: as measured",
    )


def _labelled(figure: Figure, axis: str, key: str) -> Figure:
    figure.supxlabel(f"{axis}\n{key}", fontsize=_STYLE.font)
    return figure


class _ModelLooks:
    """Marker and colour of each model, the same in all figures."""

    def __init__(self, weighed: ProtectionTradeoff, dark: bool) -> None:
        self.plain = _PLAIN_COLOUR[dark]
        self.models = {model.name: model for model in (weighed.plain, *weighed.models)}
        self._numbers = {name: number for number, name in enumerate(self.models)}

    def marker(self, name: str) -> dict[str, Any]:
        """Keywords of an errorbar."""
        number = self._numbers[name]
        return {"fmt": MARKERS[number % len(MARKERS)], "color": self._colour(number), "label": drawn(name)}

    def colour_of_passes(self, passes: Sequence[str]) -> str:
        """That of the first model that was protected with them."""
        names = [name for name, model in self.models.items() if set(model.passes) == set(passes)]
        return self._colour(self._numbers[names[0]])

    def _colour(self, number: int) -> str:
        return self.plain if number == 0 else COLOURS[(number - 1) % (len(COLOURS) - 1)]


def _panels(
    weighed: ProtectionTradeoff, panel: Callable[[Any, Sequence[TradeoffPoint]], None], looks: _ModelLooks
) -> Figure:
    """A row for each fault model, a column for each event."""
    models = list(dict.fromkeys((point.target, point.where, point.op) for point in weighed.points))
    events: list[EventName] = [e for e in ("sdc1", "outside") if any(p.event == e for p in weighed.points)]
    figure = Figure(figsize=(_STYLE.width, (_STYLE.height + 0.5) * len(models) + 0.12 * len(looks.models) + 0.3))
    figure.set_layout_engine("constrained")
    axes = figure.subplots(len(models), len(events), squeeze=False)
    handles: dict[str, Any] = {}
    for row, (target, where, op) in enumerate(models):
        for column, event in enumerate(events):
            axis, key = axes[row, column], (target, where, op, event)
            points = [point for point in weighed.points if _key(point) == key]
            if not points:
                axis.set_axis_off()
                continue
            panel(axis, points)
            axis.set_title(f"{drawn(op)} in {'activations' if where == 'activation' else 'weights'}")
            axis.set_ylabel(f"{MEASURE_NAMES[event]} left (%)")
            handles |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend([*handles.values()], [*handles], loc="outside upper left", ncols=min(4, len(handles)))
    return figure


def _curve(axis: Any, curve: HypotheticalCurve, colour: str, label: str) -> None:
    x = [step.cost_percent for step in curve.greedy]
    before = 100 * curve.before.rate
    low, high = (
        [before * (1 - end) for end in ends] for ends in zip(*((s.high, s.low) for s in curve.greedy), strict=True)
    )
    axis.fill_between(x, low, high, step="post", color=colour, alpha=0.12, linewidth=0)
    axis.plot(
        x, [100 * step.left for step in curve.greedy], drawstyle="steps-post", color=colour, linewidth=0.9, label=label
    )
    axis.plot(
        [s.cost_percent for s in curve.exact], [100 * s.left for s in curve.exact], "x", color=colour, markersize=3
    )


def _curve_cost(weighed: ProtectionTradeoff, model: CostedModel) -> float:
    """What a model costs in the unit of the curves."""
    return 100 * (model.latency[0].ratio - 1) if _is_latency(weighed) else model.operations_added_percent


def _is_latency(weighed: ProtectionTradeoff) -> bool:
    return any(curve.cost == "latency" for curve in weighed.curves)


def _key(part: Any) -> tuple[str, str, str, str]:
    return part.target, part.where, part.op, part.event


def _errors(rate: ComparedRate) -> np.ndarray:
    return 100 * np.maximum(0, [[rate.rate - rate.low], [rate.high - rate.rate]])


def _ends(value: float, low: float | None, high: float | None) -> np.ndarray:
    return 100 * np.maximum(0, [[0 if low is None else value - low], [0 if high is None else high - value]])
