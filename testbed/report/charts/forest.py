"""Rates side by side, each with its interval: one line per category and measure (a forest plot)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from testbed.report.charts import svg
from testbed.report.charts.axis import RateAxis
from testbed.report.estimate import RateEstimate
from testbed.report.formatting import MEASURE_NAMES, bounds, rate, sample

_LINE, _BETWEEN, _AXIS = 17, 11, 34
_LABELS, _PLOT, _NUMBERS = 156, 200, 158


@dataclass(frozen=True)
class Category:
    """``note`` is said beneath the name. Estimates are by measure."""

    name: str
    estimates: Mapping[str, RateEstimate]
    note: str = ""


def forest(categories: Sequence[Category], top: float, label: str, square_root: bool = False) -> Markup:
    """``top``: the highest rate the axis must reach."""
    axis = RateAxis.reaching([top], _PLOT, square_root)
    heights = [_BETWEEN + _LINE * max(len(c.estimates), 1 + bool(c.note)) for c in categories]
    bottom = sum(heights) + 4
    parts = []
    for at, name in axis.ticks(apart=38):
        x = _LABELS + at
        parts += [svg.line(x, 2, x, bottom, "grid"), svg.text(x, bottom + 16, name, "axis", "middle")]
    y = 2.0
    for category, height in zip(categories, heights, strict=True):
        parts.append(_category(category, y, axis))
        y += height
    return svg.drawing(_LABELS + _PLOT + _NUMBERS, bottom + _AXIS - 10, label, parts)


def highest(categories: Sequence[Category]) -> float:
    return max((e.high for c in categories for e in c.estimates.values()), default=0.0)


def _category(category: Category, y: float, axis: RateAxis) -> Markup:
    first = y + _BETWEEN / 2 + _LINE / 2
    parts = [svg.text(0, first + 4, category.name, "label")]
    if category.note:
        parts.append(svg.text(0, first + 4 + _LINE - 2, category.note, "fine"))
    for number, (measure, estimate) in enumerate(category.estimates.items()):
        at = first + number * _LINE
        x = _LABELS + axis(estimate.rate)
        tooltip = f"{category.name}, {MEASURE_NAMES[measure]}: {rate(estimate)}; {sample(estimate)}{bounds(estimate)}"
        drawn = [
            svg.tooltip(tooltip),
            svg.rect(_LABELS, at - _LINE / 2, _PLOT + _NUMBERS, _LINE, "hover"),
            svg.whisker(_LABELS + axis(estimate.low), at, _LABELS + axis(estimate.high), at, measure),
            svg.marker(x, at, measure, hollow=estimate.rate == 0),
            svg.text(_LABELS + _PLOT + _NUMBERS, at + 4, rate(estimate), "label", "end"),
        ]
        parts.append(svg.group(drawn))
    return svg.group(parts)
