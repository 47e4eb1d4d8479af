"""Curves over one axis, each with the band of its interval: how a rate goes with a tolerance, or a width with faults."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from testbed.report.charts import svg
from testbed.report.charts.axis import Axis
from testbed.report.charts.svg import Place

_LEFT, _TOP, _RIGHT, _BOTTOM = 44, 24, 26, 42


@dataclass(frozen=True)
class CurvePoint:
    """A point of a curve. low, high: ends of its interval; tooltip: what pointing at it says."""

    x: float
    y: float
    low: float
    high: float
    tooltip: str


@dataclass(frozen=True)
class Curve:
    """One line of a chart. series: its CSS class. faint: one that is there to compare with, without points and
    interval."""

    series: str
    points: Sequence[CurvePoint]
    faint: bool = False


@dataclass(frozen=True)
class Rule:
    """A line across the plot, at ``x`` or at ``y``."""

    tooltip: str
    class_: str
    x: float | None = None
    y: float | None = None


@dataclass(frozen=True)
class PlotFrame:
    """Where a plot is drawn. The axes' lengths are its size."""

    x: Axis
    y: Axis
    width: float
    height: float
    left: float = 0.0
    top: float = 0.0

    @property
    def outer(self) -> tuple[float, float]:
        """Width and height with everything around the plot."""
        return _LEFT + self.width + _RIGHT, _TOP + self.height + _BOTTOM

    def position(self, x: float, y: float) -> Place:
        return self.left + _LEFT + self.x(x), self.top + _TOP + self.height - self.y(y)

    def grid(self, x_name: str, y_name: str, x_apart: float = 46) -> list[Markup]:
        left, top = self.left + _LEFT, self.top + _TOP
        bottom, right = top + self.height, left + self.width
        parts = [svg.text(left - _LEFT, top - 13, y_name, "axis")]
        for height, name in self.y.ticks(apart=18):
            parts.append(svg.line(left, bottom - height, right, bottom - height, "grid"))
            parts.append(svg.text(left - 7, bottom - height + 4, name, "axis", "end"))
        for at, name in self.x.ticks(apart=x_apart):
            parts.append(svg.line(left + at, top, left + at, bottom, "grid"))
            parts.append(svg.text(left + at, bottom + 16, name, "axis", "middle"))
        parts.append(svg.text(left + self.width / 2, bottom + 34, x_name, "axis", "middle"))
        return parts

    def rules(self, rules: Iterable[Rule]) -> list[Markup]:
        left, top = self.left + _LEFT, self.top + _TOP
        parts = []
        for rule in rules:
            if rule.x is not None:
                x = left + self.x(rule.x)
                ends = (x, top, x, top + self.height)
            else:
                y = top + self.height - self.y(rule.y or 0.0)
                ends = (left, y, left + self.width, y)
            parts.append(svg.group([svg.tooltip(rule.tooltip), svg.line(*ends, f"rule {rule.class_}")]))
        return parts

    def curves(self, curves: Iterable[Curve]) -> list[Markup]:
        """Bands beneath all lines, marks above them."""
        shown = [curve for curve in curves if curve.points]
        bands = [self._band(curve) for curve in shown if not curve.faint]
        lines = [
            svg.polyline(
                (self.position(p.x, p.y) for p in curve.points), f"line {curve.series}" + " faint" * curve.faint
            )
            for curve in shown
        ]
        marks = [self._mark(curve.series, point) for curve in shown if not curve.faint for point in curve.points]
        return [*bands, *lines, *marks]

    def _band(self, curve: Curve) -> Markup:
        upper = [self.position(point.x, point.high) for point in curve.points]
        lower = [self.position(point.x, point.low) for point in curve.points]
        return svg.polygon([*upper, *reversed(lower)], f"band {curve.series}")

    def _mark(self, series: str, point: CurvePoint) -> Markup:
        x, y = self.position(point.x, point.y)
        return svg.group(
            [svg.tooltip(point.tooltip), svg.rect(x - 5, y - 8, 10, 16, "hover"), svg.marker(x, y, series, size=2.4)]
        )


def chart(
    frame: PlotFrame, curves: Sequence[Curve], rules: Sequence[Rule], x_name: str, y_name: str, label: str
) -> Markup:
    """One plot as a drawing of its own."""
    return svg.drawing(*frame.outer, label, [*frame.grid(x_name, y_name), *frame.rules(rules), *frame.curves(curves)])
