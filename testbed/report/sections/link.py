"""Would watching the first attention module have foreseen a changed prediction? What a sweep's ``--link`` found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from testbed.core.words.bounds import tolerance
from testbed.report.charts import roc
from testbed.report.formatting import rate
from testbed.report.sections.rates import Figure, Line
from testbed.report.sections.swept import (
    Record,
    Table,
    at_main,
    estimate,
    fault_model,
    floor_rules,
    named,
    own_rules,
    tier_name,
)

_LINK = {"sensitivity": "sensitivity", "specificity": "specificity", "ppv": "PPV", "npv": "NPV"}


@dataclass(frozen=True)
class Link:
    introduction: str
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]


def followed(swept: Record) -> Link | None:
    """None where the faults were not followed."""
    link = swept["link"]
    if link is None or not link["models"]:
        return None
    model = fault_model(link["models"][0])
    parts = [part for part in link["models"] if fault_model(part) == model]
    return Link(
        _link_told(swept, link, parts[0]),
        (_link_figure(swept, link, parts[0]),),
        (_link_by_tolerance(swept, parts[0]), _link_by_tier(swept, parts)),
    )


def _link_told(swept: Record, link: Record, part: Record) -> str:
    limit = f" (of the first {link['limit']:,} draws)" if link["limit"] else ""
    return (
        f"{link['faults']:,} faults{limit} inside {link['module']} were followed from {link['output']} to the logits,"
        f" {link['checked']:,} of them run to the end again with the stored logits, bit for bit."
        f" Shown: {named(part)}, {part['n_sdc1']:,} of {part['n_rows']:,} rows changed the prediction."
    )


def _link_figure(swept: Record, link: Record, part: Record) -> Figure:
    points = at_main(swept, part["grid"])
    series = {n: [(p["atol"], estimate(p[n])) for p in points if p[n]] for n in ("sensitivity", "specificity")}
    rules = [*own_rules(swept), *floor_rules(swept, link["noise"])]
    title = f"{named(part)[0].upper()}{named(part)[1:]} inside {link['module']}"
    drawing = roc.by_tolerance(series, rules, _LINK, f"Module's output out of tolerance, then SDC-1. {title}")
    lines = [
        Line(f"atol {tolerance(p['atol'])}", name, estimate(p[key]))
        for key, name in _LINK.items()
        for p in points
        if p[key]
    ]
    return Figure("link-tolerance", title, drawing, tuple(lines))


def _link_by_tolerance(swept: Record, part: Record) -> Table:
    own = set(swept["tolerance"]["atol"])
    points = at_main(swept, part["grid"])
    shown = [
        p for p in points if swept["atol"] is not None or p["atol"] in own or f"{p['atol']:e}".startswith("1.000000e")
    ]
    rows = [(tolerance(p["atol"]), *_link_cells(p)) for p in shown]
    return Table("link-grid", "By tolerance, all images", ("atol", *_LINK.values()), tuple(rows))


def _link_by_tier(swept: Record, parts: Sequence[Record]) -> Table:
    """The link by tier, at the campaign's own tolerance, or the nearest that was swept."""
    rows = []
    for part in parts:
        tier = part["tier"]
        own = swept["tolerance"]["atol"][tier or 0]
        point = min(at_main(swept, part["grid"]), key=lambda p: abs(p["atol"] - own))
        rows.append((tier_name(swept, tier), tolerance(point["atol"]), str(part["n_sdc1"]), *_link_cells(point)))
    columns = ("images", "atol", "SDC-1 rows", *_LINK.values())
    return Table("link-tiers", "At the campaign's tolerance, per tier", columns, tuple(rows))


def _link_cells(point: Record) -> tuple[str, ...]:
    return tuple("no such row" if point[name] is None else rate(estimate(point[name])) for name in _LINK)
