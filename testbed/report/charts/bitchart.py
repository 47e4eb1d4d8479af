"""Which bits matter: rates by bit position with their intervals, over what the bit means in the number format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from markupsafe import Markup

from testbed.core.formats import Format
from testbed.report.charts import svg
from testbed.report.charts.axis import RateAxis
from testbed.report.estimate import RateEstimate
from testbed.report.formatting import MEASURE_NAMES, bounds, rate, sample

_WIDTH, _LEFT, _TOP, _PLOT, _BOTTOM = 1060, 56, 26, 210, 42

BitSeries = Mapping[str, RateEstimate]
"""Estimates of one bit, by measure."""


def bit_chart(bits: Mapping[int, BitSeries], fmt: Format, top: float, label: str) -> Markup:
    """A chart of rates by bit. bits: by position; one that was not sampled stays empty. ``top``: the highest rate the
    axis must reach."""
    column = (_WIDTH - _LEFT) / fmt.bits
    axis = RateAxis.reaching([top], _PLOT, square_root=True)
    parts = [*_bands(fmt, column), *_grid(axis)]
    for bit in range(fmt.bits):
        x = _LEFT + (fmt.bits - 1 - bit + 0.5) * column
        parts.append(svg.text(x, _TOP + _PLOT + 16, str(bit), "axis", "middle"))
        if bit in bits:
            parts.append(_column(x, column, bit, fmt, bits[bit], axis))
    middle = _LEFT + (_WIDTH - _LEFT) / 2
    parts.append(svg.text(middle, _TOP + _PLOT + 36, "bit position, most significant first", "axis", "middle"))
    return svg.drawing(_WIDTH, _TOP + _PLOT + _BOTTOM, label, parts)


def highest(bits: Sequence[Mapping[int, BitSeries]]) -> float:
    """The highest end of any interval: charts that are compared share one axis."""
    return max((e.high for chart in bits for series in chart.values() for e in series.values()), default=0.0)


def _bands(fmt: Format, column: float) -> list[Markup]:
    parts = []
    x = float(_LEFT)
    for role, members in groupby(range(fmt.bits - 1, -1, -1), fmt.role):
        many = len(list(members))
        width = many * column
        parts.append(svg.rect(x, _TOP, width, _PLOT, f"band {role}"))
        name = f"{role}, {many} bits" if many > 1 else role
        parts.append(svg.text(x + width / 2, _TOP - 9, name, "axis", "middle"))
        x += width
    return parts


def _grid(axis: RateAxis) -> list[Markup]:
    parts = []
    for height, name in axis.ticks(apart=18):
        y = _TOP + _PLOT - height
        parts += [svg.line(_LEFT, y, _WIDTH, y, "grid"), svg.text(_LEFT - 8, y + 4, name, "axis", "end")]
    return parts


def _column(x: float, width: float, bit: int, fmt: Format, series: BitSeries, axis: RateAxis) -> Markup:
    base = _TOP + _PLOT
    rates = [f"{MEASURE_NAMES[measure]} {rate(estimate)}{bounds(estimate)}" for measure, estimate in series.items()]
    sampled = sample(next(iter(series.values())))
    parts = [
        svg.tooltip(f"bit {bit} ({fmt.role(bit)}): {'; '.join(rates)}; {sampled}"),
        svg.rect(x - width / 2, _TOP, width, _PLOT, "hover"),
    ]
    step = min(11.0, width / (len(series) + 1))
    for number, (measure, estimate) in enumerate(series.items()):
        at = x + (number - (len(series) - 1) / 2) * step
        nothing = estimate.rate == 0
        ends = (base - axis(estimate.low), base - axis(estimate.high))
        parts.append(svg.whisker(at, ends[0], at, ends[1], measure + " faint" * nothing, cap=2.5))
        parts.append(svg.marker(at, base - axis(estimate.rate), measure, hollow=nothing, size=2.5 if nothing else 4))
    return svg.group(parts)
