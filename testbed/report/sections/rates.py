"""Figures of the evidence: which rates each one shows. No rate is computed here: all are the summary's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from markupsafe import Markup

from testbed.analysis.outputs.confidence import interval_name
from testbed.campaign.summary.record import SummaryTier
from testbed.core.site import Where
from testbed.report.charts import bitchart, forest, heatmap, stack
from testbed.report.charts.forest import Category
from testbed.report.estimate import Composition, RateEstimate
from testbed.report.formatting import CLASS_NAMES, MEASURE_NAMES, count, model_name
from testbed.report.read.evidence import Evidence, Value, bits_of

PLACES: dict[Where, str] = {"activation": "Activations", "weight": "Weights"}
_MODEL, _ATTENTION = ("sdc1", "nonfinite"), ("outside", "nonfinite")
_BLOCK = re.compile(r"^block\.\d+\.")
RateSeries = dict[str, RateEstimate]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Line:
    """One number of a figure, for the table beneath it."""

    name: str
    measure: str
    estimate: RateEstimate


@dataclass(frozen=True)
class Figure:
    """``id`` names it on the page."""

    id: str
    title: str
    drawing: Markup
    lines: tuple[Line, ...]


def heat_maps(evidence: Evidence) -> tuple[list[Figure], Markup | None]:
    """SDC-1 by site, one map per place, and their common colour key (None without any map)."""
    maps = []
    for where, op in _target_places(evidence, "model"):
        sites = _in_order(evidence, "model", _series(evidence, "model", where, op, "site", ("sdc1",)))
        blocks = _series(evidence, "model", where, op, "block", ("sdc1",))
        if sites:
            by_block = {b: series["sdc1"] for b, series in blocks.items() if isinstance(b, int)}
            by_site = {site: series["sdc1"] for site, series in sites.items()}
            maps.append((where, op, heatmap.SiteGrid.of(list(by_site)), by_site, by_block))
    if not maps:
        return [], None
    shown = [estimate for *_, sites, blocks in maps for estimate in (*sites.values(), *blocks.values())]
    scale = heatmap.ColourScale.reaching(estimate.rate for estimate in shown)
    left = heatmap.label_width(grid for _, _, grid, _, _ in maps)
    figures = []
    for where, op, grid, by_site, by_block in maps:
        title = f"{PLACES[where]}, {model_name(op)}"
        drawing = heatmap.heat_map(grid, by_site, by_block, scale, left, f"SDC-1 rate by site. {title}")
        named = [*by_site.items(), *((f"block {block}, all sites", e) for block, e in by_block.items())]
        figures.append(Figure(f"sites-{where}", title, drawing, _lines((name, {"sdc1": e}) for name, e in named)))
    return figures, heatmap.colour_key(scale)


def bit_charts(evidence: Evidence, target: str) -> list[Figure]:
    """Charts by bit position, activations and weights on one axis; number formats apart."""
    measures = _MODEL if target == "model" else _ATTENTION
    charts = []
    for where, op in _target_places(evidence, target):
        formats = evidence.marginals.bit_formats(target, where, op)
        for fmt in formats:
            by_bit = _series(evidence, target, where, op, "bit" if fmt is None else bits_of(fmt.name), measures)
            bits = {bit: series for bit, series in by_bit.items() if isinstance(bit, int)}
            if bits:
                charts.append((where, op, fmt if len(formats) > 1 else None, fmt or evidence.format, bits))
    top = bitchart.highest([bits for *_, bits in charts])
    figures = []
    for where, op, one_of, fmt, bits in charts:  # of several formats, each has a chart and a name of its own
        title = f"{PLACES[where]}, {model_name(op)}" + ("" if one_of is None else f", words of {one_of.name}")
        drawing = bitchart.bit_chart(bits, fmt, top, f"Rates by bit position. {title}")
        lines = _lines((f"bit {bit}", bits[bit]) for bit in sorted(bits, reverse=True))
        name = f"bits-{target}-{where}" + ("" if one_of is None else f"-{one_of.name}")
        figures.append(Figure(name, title, drawing, lines))
    return figures


def tier_plots(evidence: Evidence) -> list[Figure]:
    def categories(where: Where, op: str) -> list[Category]:
        by_tier = _series(evidence, "model", where, op, "tier", _MODEL)
        return [_tier(tier, by_tier[tier.tier]) for tier in evidence.summary.tiers if tier.tier in by_tier]

    return _plots(evidence, "tiers", "model", categories)


def _tier(tier: SummaryTier, series: RateSeries) -> Category:
    images = f"{count(tier.images)} of {count(tier.available)} images"
    thin = ", thin" if tier.thin else ""
    return Category(f"margin {interval_name(tier.low, tier.high)}", series, images + thin)


def op_plots(evidence: Evidence) -> list[Figure]:
    """Plots by fault model, all sites and bits together."""

    def categories(where: Where, _: str) -> list[Category]:
        ops = evidence.marginals.ops("model", where)
        return [Category(model_name(op), _measured(evidence, "model", where, op, _MODEL)) for op in ops]

    return _plots(evidence, "ops", "model", categories, compares_ops=True)


_PARTS = {"tier": "tier ", "block": "block ", "kind": "", "bit_class": "", "site": ""}


def other_models(evidence: Evidence) -> list[Figure]:
    """What the figures show of the main fault model, of every other one, in numbers: no drawing."""
    figures = []
    for target, measures in (("model", _MODEL), ("attention", _ATTENTION)):
        for where, main in _target_places(evidence, target):
            for number, op in enumerate(evidence.marginals.ops(target, where)):
                if op != main:
                    title = f"{target.capitalize()}, {PLACES[where].lower()}, {model_name(op)}"
                    lines = _lines(_by_part(evidence, target, where, op, measures))
                    figures.append(Figure(f"other-{target}-{where}-{number}", title, Markup(), lines))
    return [figure for figure in figures if figure.lines]


def _by_part(
    evidence: Evidence, target: str, where: Where, op: str, measures: Sequence[str]
) -> Iterator[tuple[str, RateSeries]]:
    for by, before in _PARTS.items():
        for value, series in _series(evidence, target, where, op, by, measures).items():
            if by == "tier" and isinstance(value, int):
                tier = evidence.summary.tiers[value]
                yield f"margin {interval_name(tier.low, tier.high)}", series
            elif by == "block" and value is None:
                yield "outside the blocks", series
            else:
                yield before + CLASS_NAMES.get(str(value), str(value)), series


def attention_plots(evidence: Evidence) -> list[Figure]:
    """Plots of the attention module alone, by site."""

    def categories(where: Where, op: str) -> list[Category]:
        whole = Category("all sites", _measured(evidence, "attention", where, op, _ATTENTION))
        sites = _in_order(evidence, "attention", _series(evidence, "attention", where, op, "site", _ATTENTION))
        return [whole, *(Category(_BLOCK.sub("", site), series) for site, series in sites.items())]

    return _plots(evidence, "attention", "attention", categories)


def _plots(
    evidence: Evidence,
    name: str,
    target: str,
    categories: Callable[[Where, str], list[Category]],
    compares_ops: bool = False,
) -> list[Figure]:
    """One forest plot per place, on one axis. categories: of a place and its main fault model."""
    made = []
    for where, op in _target_places(evidence, target):
        shown = [category for category in categories(where, op) if category.estimates]
        if shown:
            made.append((where, PLACES[where] if compares_ops else f"{PLACES[where]}, {model_name(op)}", shown))
    top = forest.highest([category for _, _, shown in made for category in shown])
    return [
        Figure(
            f"{name}-{where}",
            title,
            forest.forest(shown, top, f"Rates with intervals. {title}", square_root=compares_ops),
            _lines((category.name, category.estimates) for category in shown),
        )
        for where, title, shown in made
    ]


Compositions = Mapping[tuple[str, str, str, str], Composition]


def outcome_bars(evidence: Evidence, target: str, compositions: Compositions) -> tuple[list[Figure], list[str]]:
    """Bars by class of bit, and the outcomes that occur (for the key)."""
    measure = "sdc1" if target == "model" else "outside"
    figures, occurring = [], set()
    for where, op in _target_places(evidence, target):
        bars = []
        for bit_class in ("all", *CLASS_NAMES):
            composition = compositions.get((target, where, op, bit_class))
            if composition:
                by = ("all", None) if bit_class == "all" else ("bit_class", bit_class)
                estimate = evidence.marginals.estimate(target, where, op, measure, *by)
                bars.append(stack.Bar(CLASS_NAMES.get(bit_class, "all bits"), composition, estimate))
        if bars:
            title = f"{PLACES[where]}, {model_name(op)}"
            drawing = stack.stacked_bars(bars, f"{MEASURE_NAMES[measure]}, with interval", f"Outcomes. {title}")
            lines = _lines((bar.name, {measure: bar.estimate}) for bar in bars if bar.estimate)
            figures.append(Figure(f"outcomes-{target}-{where}", title, drawing, lines))
            occurring.update(stack.outcomes_of(bars))
    return figures, [outcome for outcome in stack.OUTCOMES if outcome in occurring]


def _target_places(evidence: Evidence, target: str) -> list[tuple[Where, str]]:
    """(place, main fault model) of every place that was struck."""
    return [(where, op) for where in PLACES if (op := evidence.marginals.main_op(target, where))]


def _measured(
    evidence: Evidence,
    target: str,
    where: Where,
    op: str,
    measures: Sequence[str],
    by: str = "all",
    value: Value = None,
) -> RateSeries:
    estimates = {m: evidence.marginals.estimate(target, where, op, m, by, value) for m in measures}
    return {measure: estimate for measure, estimate in estimates.items() if estimate is not None}


def _series(
    evidence: Evidence, target: str, where: Where, op: str, by: str, measures: Sequence[str]
) -> dict[Value, RateSeries]:
    """Estimates by value, then measure; values without any are left out."""
    values = evidence.marginals.values(target, where, op, by)
    by_value = {value: _measured(evidence, target, where, op, measures, by, value) for value in values}
    return {value: series for value, series in by_value.items() if series}


def _in_order(evidence: Evidence, target: str, by_site: Mapping[Value, Item]) -> dict[str, Item]:
    """Sites in the order of the site table, which is that of execution; as they come without one."""
    table = evidence.site_table(target)
    rank = {site.name: number for number, site in enumerate(table)} if table else {}
    named = {str(site): item for site, item in by_site.items()}
    return {site: named[site] for site in sorted(named, key=lambda site: rank.get(site, len(rank)))}


def _lines(named: Iterable[tuple[str, Mapping[str, RateEstimate]]]) -> tuple[Line, ...]:
    return tuple(
        Line(name, MEASURE_NAMES[measure], estimate) for name, series in named for measure, estimate in series.items()
    )
