"""ROC curves per tier as small plots side by side, and rates along the absolute tolerance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from testbed.core.words.bounds import tolerance
from testbed.report.charts import svg
from testbed.report.charts.axis import LogAxis, RateAxis
from testbed.report.charts.curve import Curve, CurvePoint, PlotFrame, Rule, chart
from testbed.report.estimate import RateEstimate
from testbed.report.formatting import percent, rate, sample

__all__ = ["Level", "Panel", "Rule", "by_tolerance", "roc_panels"]
_SIDE, _PER_LINE, _NAME = 138, 5, 20
_WIDTH, _HEIGHT = 430, 190


@dataclass(frozen=True)
class Level:
    """One absolute tolerance: the share of fault-free images above it, and of the faults."""

    atol: float
    false_alarm: float
    detected: RateEstimate


@dataclass(frozen=True)
class Panel:
    """Levels by event, largest tolerance first. compared: the same faults against another fault-free engine."""

    name: str
    series: Mapping[str, Sequence[Level]]
    compared: Mapping[str, Sequence[Level]]


def roc_panels(panels: Sequence[Panel], names: Mapping[str, str], label: str) -> Markup:
    """A panel per event. names: of the events."""
    frame = PlotFrame(RateAxis(1.0, _SIDE), RateAxis(1.0, _SIDE), _SIDE, _SIDE)
    width, height = frame.outer
    height += _NAME
    parts: list[Markup] = []
    for number, panel in enumerate(panels):
        line, column = divmod(number, _PER_LINE)
        here = replace(frame, left=column * width, top=line * height + _NAME)
        parts.append(svg.text(here.left, here.top - 7, panel.name, "label"))
        parts += here.grid("false alarms", "detected")
        curves = [Curve(event, _points(levels, ""), faint=True) for event, levels in panel.compared.items() if levels]
        curves += [Curve(event, _points(levels, names[event])) for event, levels in panel.series.items() if levels]
        parts += here.curves(curves)
    lines = -(-len(panels) // _PER_LINE)
    return svg.drawing(min(len(panels), _PER_LINE) * width, lines * height, label, parts)


def _points(levels: Sequence[Level], name: str) -> list[CurvePoint]:
    """Points from where nothing is flagged to where everything is; between levels, ties are broken by a coin."""
    inner = [
        _point(
            level,
            f"{name} at atol {tolerance(level.atol)}: {rate(level.detected)} detected, false alarms"
            f" {percent(level.false_alarm)}; {sample(level.detected)}",
        )
        for level in levels
    ]
    return [CurvePoint(0, 0, 0, 0, "nothing flagged"), *inner, CurvePoint(1, 1, 1, 1, "everything flagged")]


def _point(level: Level, tooltip: str) -> CurvePoint:
    detected = level.detected
    return CurvePoint(level.false_alarm, detected.rate, detected.low, detected.high, tooltip)


def by_tolerance(
    series: Mapping[str, Sequence[tuple[float, RateEstimate]]],
    rules: Sequence[Rule],
    names: Mapping[str, str],
    label: str,
) -> Markup:
    """A chart by tolerance. series: (atol, rate) of what is told by its name; an atol of 0 is drawn at the axis'
    start."""
    atols = [atol for estimates in series.values() for atol, _ in estimates] + [rule.x or 0.0 for rule in rules]
    frame = PlotFrame(LogAxis.holding(atols, _WIDTH, tolerance), RateAxis(1.0, _HEIGHT), _WIDTH, _HEIGHT)
    curves = [
        Curve(
            name,
            [
                CurvePoint(
                    atol, e.rate, e.low, e.high, f"atol {tolerance(atol)}, {names[name]}: {rate(e)} of {e.rows:,}"
                )
                for atol, e in estimates
            ],
        )
        for name, estimates in series.items()
    ]
    return chart(frame, curves, rules, "absolute tolerance", "share of rows", label)
