"""Would watching the first attention module have foreseen a changed prediction? What a sweep's ``--link`` found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from testbed.core.words.bounds import tolerance
from testbed.report.charts import roc
from testbed.report.formatting import rate
from testbed.report.sections.rates import Figure, Line
from testbed.report.sections.swept import (
    Table,
    estimate,
    floor_rules,
    named,
    own_rules,
    tier_name,
)
from testbed.sweep.record import LinkedModel, LinkPoint, LinkRate, LinkRecord, SweepRecord

_LINK: dict[LinkRate, str] = {"sensitivity": "sensitivity", "specificity": "specificity", "ppv": "PPV", "npv": "NPV"}


@dataclass(frozen=True)
class Link:
    introduction: str
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]


def followed(swept: SweepRecord) -> Link | None:
    """None where the faults were not followed."""
    link = swept.link
    if link is None or not link.models:
        return None
    parts = [part for part in link.models if part.model_key == link.models[0].model_key]
    return Link(
        _link_told(link, parts[0]),
        (_link_figure(swept, link, parts[0]),),
        (_link_by_tolerance(swept, parts[0]), _link_by_tier(swept, parts)),
    )


def _link_told(link: LinkRecord, part: LinkedModel) -> str:
    limit = f" (of the first {link.limit:,} draws)" if link.limit else ""
    return (
        f"{link.faults:,} faults{limit} inside {link.module} were followed from {link.output} to the logits,"
        f" {link.checked:,} of them run to the end again with the stored logits, bit for bit."
        f" Shown: {named(part)}, {part.n_sdc1:,} of {part.n_rows:,} rows changed the prediction."
    )


def _link_figure(swept: SweepRecord, link: LinkRecord, part: LinkedModel) -> Figure:
    points = swept.at_main(part.grid)
    series = {
        "sensitivity": [(p.atol, estimate(p.sensitivity)) for p in points if p.sensitivity],
        "specificity": [(p.atol, estimate(p.specificity)) for p in points if p.specificity],
    }
    rules = [*own_rules(swept), *floor_rules(swept, link.noise)]
    title = f"{named(part)[0].upper()}{named(part)[1:]} inside {link.module}"
    drawing = roc.by_tolerance(
        series, rules, dict(_LINK.items()), f"Module's output out of tolerance, then SDC-1. {title}"
    )
    lines = [
        Line(f"atol {tolerance(p.atol)}", name, estimate(rate))
        for key, name in _LINK.items()
        for p in points
        if (rate := p.rates[key])
    ]
    return Figure("link-tolerance", title, drawing, tuple(lines))


def _link_by_tolerance(swept: SweepRecord, part: LinkedModel) -> Table:
    own = set(swept.tolerance.atol)
    points = swept.at_main(part.grid)
    shown = [p for p in points if swept.atol is not None or p.atol in own or f"{p.atol:e}".startswith("1.000000e")]
    rows = [(tolerance(p.atol), *_link_cells(p)) for p in shown]
    return Table("link-grid", "By tolerance, all images", ("atol", *_LINK.values()), tuple(rows))


def _link_by_tier(swept: SweepRecord, parts: Sequence[LinkedModel]) -> Table:
    """The link by tier, at the campaign's own tolerance, or the nearest that was swept."""
    rows = []
    for part in parts:
        own = swept.tolerance.atol[part.tier or 0]
        point = min(swept.at_main(part.grid), key=lambda p: abs(p.atol - own))
        rows.append((tier_name(swept, part.tier), tolerance(point.atol), str(part.n_sdc1), *_link_cells(point)))
    columns = ("images", "atol", "SDC-1 rows", *_LINK.values())
    return Table("link-tiers", "At the campaign's tolerance, per tier", columns, tuple(rows))


def _link_cells(point: LinkPoint) -> tuple[str, ...]:
    return tuple("no such row" if share is None else rate(estimate(share)) for share in point.rates.values())
