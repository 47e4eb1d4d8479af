"""Where faults matter: one cell per site, rows in the order the model computes them, columns through its depth."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from testbed.report.charts import svg
from testbed.report.estimate import RateEstimate
from testbed.report.formatting import bounds, compact, compact_interval, rate, sample

LEVELS = 9  # classes of the colour scale; the style sheet has as many colours
_STEPS = (1, 1.5, 2, 3, 5, 7)
_BLOCK = re.compile(r"^block\.(\d+)\.(.+)$")
_BEFORE = (
    *("patch_embed", "embed", "embed_norm"),
    *("cls_token", "dist_token", "registers", "pos_embed", "pos_row", "pos_column"),
)
_ROW, _HEADER, _WIDEST, _GAP, _LETTER = 30, 26, 68, 7, 6.7  # pixels
_PAGE, _TOTAL = 1060, "whole block"


@dataclass(frozen=True)
class ColourScale:
    """Classes of rates between round bounds, each about 1.5 times the one before. Zero is no class of it."""

    bounds: tuple[float, ...]

    @classmethod
    def reaching(cls, rates: Iterable[float]) -> ColourScale:
        highest = max((r for r in rates if r > 0), default=0.01)
        series = [step * 10.0**power for power in range(-8, 1) for step in _STEPS]
        series = [round(bound, 10) for bound in series if bound < 1] + [1.0]
        last = max(LEVELS - 1, next(i for i, bound in enumerate(series) if bound >= highest))
        return cls(tuple(series[last - LEVELS + 1 : last + 1]))

    def level(self, value: float) -> int:
        """1 to LEVELS for a rate; 0 for zero."""
        if value == 0:
            return 0
        return 1 + next((i for i, bound in enumerate(self.bounds) if value <= bound), len(self.bounds) - 1)


@dataclass(frozen=True)
class SiteGrid:
    """Sites by row (name without its block) and column ("embed", block number, "head"), in order of execution."""

    rows: tuple[str, ...]
    columns: tuple[str | int, ...]
    sites: Mapping[tuple[str, str | int], str]

    @classmethod
    def of(cls, names: Sequence[str]) -> SiteGrid:
        """Lays sites out. names: in order of execution."""
        inside: dict[int, list[str]] = {}
        before: list[str] = []
        after: list[str] = []
        sites: dict[tuple[str, str | int], str] = {}
        for name in names:
            if match := _BLOCK.match(name):
                block, row = int(match[1]), match[2]
                inside.setdefault(block, []).append(row)
                sites[row, block] = name
            else:
                early = name.split(".")[0] in _BEFORE
                (before if early else after).append(name)
                sites[name, "embed" if early else "head"] = name
        depth = range(max(inside, default=-1) + 1)
        columns: tuple[str | int, ...] = (*(["embed"] * bool(before)), *depth, *(["head"] * bool(after)))
        return cls((*before, *_merged(inside.values()), *after), columns, sites)


def _merged(sequences: Iterable[Sequence[str]]) -> list[str]:
    """Every name once, each before the names that follow it: blocks may lack rows that others have."""
    merged: list[str] = []
    for names in sequences:
        position = len(merged)
        for name in reversed(names):
            if name in merged:
                position = merged.index(name)
            else:
                merged.insert(position, name)
    return merged


def label_width(grids: Iterable[SiteGrid]) -> float:
    """Pixels for the row names, the same for maps that are compared."""
    return 12 + _LETTER * max(len(name) for grid in grids for name in (*grid.rows, _TOTAL))


def heat_map(
    grid: SiteGrid,
    estimates: Mapping[str, RateEstimate],
    totals: Mapping[int, RateEstimate],
    scale: ColourScale,
    left: float,
    label: str,
) -> Markup:
    """A heat map of rates by site. estimates: by site name; totals: by block, shown as a row of their own beneath;
    left: the ``label_width``.

    Two drawings side by side: the rows' names, which stay in sight where the other, the cells, is scrolled.
    """
    cell = min(_WIDEST, (_PAGE - left) / len(grid.columns))
    names = [svg.text(left - 10, 17, "block", "axis", "end")] if totals else []
    parts = []
    for number, column in enumerate(grid.columns):
        parts.append(svg.text((number + 0.5) * cell, 17, str(column), "axis", "middle"))
    y = float(_HEADER)
    for row in grid.rows:
        names.append(svg.text(left - 10, y + _ROW / 2 + 4, row, "label mono", "end"))
        whole = (row, "embed") not in grid.sites and (row, "head") not in grid.sites
        for number, column in enumerate(grid.columns):
            x, site = number * cell, grid.sites.get((row, column))
            if site is not None:
                parts.append(_cell(x, y, cell, site, estimates.get(site), scale))
            elif whole and isinstance(column, int):
                parts.append(_cell(x, y, cell, f"block.{column}.{row}", None, scale))
        y += _ROW
    if totals:
        y += _GAP
        names.append(svg.text(left - 10, y + _ROW / 2 + 4, _TOTAL, "label", "end"))
        for number, column in enumerate(grid.columns):
            if isinstance(column, int):
                parts.append(_cell(number * cell, y, cell, f"block {column}", totals.get(column), scale))
        y += _ROW
    drawings = (
        svg.drawing(left, y + 2, f"Names of the rows. {label}", names),
        svg.drawing(cell * len(grid.columns), y + 2, label, parts),
    )
    return svg.element("div", drawings, class_="heat")


def _cell(x: float, y: float, width: float, name: str, estimate: RateEstimate | None, scale: ColourScale) -> Markup:
    box = (x + 1, y + 1, width - 2, _ROW - 2)
    middle = x + width / 2
    if estimate is None:
        note = svg.tooltip(f"{name}: no such site, or none of its faults sampled")
        return svg.group([note, svg.rect(*box, "missing", 2)])
    level = scale.level(estimate.rate)
    parts = [
        svg.tooltip(f"{name}: {rate(estimate)}; {sample(estimate)}{bounds(estimate)}"),
        svg.rect(*box, f"cell h{level}", 2),
    ]
    if width >= 56:
        parts.append(svg.text(middle, y + 14, compact(estimate.rate), f"value i{level}", "middle"))
        parts.append(svg.text(middle, y + 25, compact_interval(estimate), f"fine i{level}", "middle"))
    else:
        parts.append(svg.text(middle, y + _ROW / 2 + 4, compact(estimate.rate), f"value i{level}", "middle"))
    return svg.group(parts)


def colour_key(scale: ColourScale) -> Markup:
    """The legend: one swatch per class with its upper bound, zero and missing apart from them."""
    bounds = [f"{100 * bound:g}" for bound in scale.bounds]
    swatch, height, y = max(38, 8 * max(map(len, bounds))), 14, 18
    parts = [svg.text(0, 11, "rate in %, up to", "axis")]
    parts += [svg.rect(1, y, 30, height, "cell h0", 2), svg.text(16, y + height + 13, "0", "axis", "middle")]
    x = 44.0
    for number, bound in enumerate(bounds):
        parts.append(svg.rect(x, y, swatch, height, f"cell h{number + 1}"))
        parts.append(svg.text(x + swatch, y + height + 13, bound, "axis", "middle"))
        x += swatch
    beneath = y + height + 26
    parts.append(svg.rect(1, beneath, 30, height, "missing", 2))
    parts.append(svg.text(38, beneath + 11, "no such site there, or no fault sampled", "axis"))
    return svg.drawing(x + swatch / 2, beneath + height + 4, "Colour scale", parts)
