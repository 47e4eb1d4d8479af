"""What became of the faults: the outcomes' shares, an exclusive partition, as one bar per class of bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from testbed.core.outcome import OUTCOMES
from testbed.report.charts import svg
from testbed.report.estimate import Composition, RateEstimate
from testbed.report.formatting import OUTCOME_NAMES, count, percent, rate

_LABELS, _BAR, _NUMBERS, _ROW, _THICK, _HEADER = 156, 690, 214, 34, 22, 22


@dataclass(frozen=True)
class Bar:
    """``estimate`` is the summary's rate of the outcome that is also told in words, with its interval."""

    name: str
    composition: Composition
    estimate: RateEstimate | None


def stacked_bars(bars: Sequence[Bar], heading: str, label: str) -> Markup:
    """A chart of stacked bars. heading: of the rates at the right."""
    bottom = _HEADER + _ROW * len(bars)
    right = _LABELS + _BAR + _NUMBERS
    parts = [svg.text(right, 13, heading, "axis", "end")]
    for tenth in range(0, 11, 2):
        x = _LABELS + _BAR * tenth / 10
        parts.append(svg.line(x, _HEADER, x, bottom, "grid"))
        parts.append(svg.text(x, bottom + 16, percent(tenth / 10), "axis", "middle"))
    for number, bar in enumerate(bars):
        parts += _bar(bar, _HEADER + number * _ROW, right)
    return svg.drawing(right, bottom + 24, label, parts)


def outcomes_of(bars: Sequence[Bar]) -> list[str]:
    """Outcomes that occur in any bar, in the partition's order."""
    return [o for o in OUTCOMES if any(bar.composition.shares.get(o, 0) > 0 for bar in bars)]


def _bar(bar: Bar, y: float, right: float) -> list[Markup]:
    middle, top = y + _ROW / 2, y + (_ROW - _THICK) / 2
    parts = [svg.text(0, middle + 4, bar.name, "label")]
    x = float(_LABELS)
    for outcome in OUTCOMES:
        share = bar.composition.shares.get(outcome, 0.0)
        width = share * _BAR
        if share <= 0:
            continue
        share_text = (
            f"{OUTCOME_NAMES[outcome]} {percent(share)} of the population, from {count(bar.composition.rows)} rows"
        )
        segment = [svg.tooltip(f"{bar.name}: {share_text}"), svg.rect(x, top, width, _THICK, f"outcome {outcome}")]
        if width >= 44:
            segment.append(svg.text(x + width / 2, middle + 4, percent(share), f"inside on-{outcome}", "middle"))
        parts.append(svg.group(segment))
        x += width
    if bar.estimate is not None:
        parts.append(svg.text(right, middle + 4, rate(bar.estimate), "label", "end"))
    return parts
