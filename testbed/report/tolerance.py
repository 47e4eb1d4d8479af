"""What `testbed sweep` found, for the page: tolerances against faults and against the noise of fault-free engines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.campaign.rates import FaultModel
from testbed.report import roc
from testbed.report.evidence import Estimate, Evidence
from testbed.report.formatting import at_least, at_most, model_name, percent, rate, tolerance
from testbed.report.sections import PLACES, Figure, Line

EVENTS = {"sdc1": "SDC-1", "any": "any corruption"}
_LINK = {"sensitivity": "sensitivity", "specificity": "specificity", "ppv": "PPV", "npv": "NPV"}
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """``notes``: of each row, what pointing at it says."""

    id: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sweep:
    """link: what was seen of the first attention module, None where it was not followed."""

    rtol: str
    wanted: str
    own: str
    noisiest: str | None
    floors: tuple[Table, ...]
    advice: tuple[Table, ...]
    rocs: tuple[Figure, ...]
    detection: tuple[Figure, ...]
    goldens: Mapping[str, str]
    link: Link | None


@dataclass(frozen=True)
class Link:
    told: str
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]


def sweep(evidence: Evidence) -> Sweep | None:
    """None for a run that was not swept since its results were made."""
    swept = evidence.sweep
    if swept is None or not swept["tiers"]:
        return None
    legs = [leg for target in ("model", "attention") for where in PLACES if (leg := _leg(swept, target, where))]
    own, *others = legs[0][0]["noise"]
    others = [source for source in others if _floor(swept, source) > _floor(swept, own)]
    noisiest = max(others, key=lambda source: _floor(swept, source), default=None)
    return Sweep(
        rtol=tolerance(swept["rtol"]["main"]),
        wanted=percent(swept["wanted_detection"]),
        own=own["source"],
        noisiest=None if noisiest is None else noisiest["source"],
        floors=tuple(_floors(swept, legs, target) for target in dict.fromkeys(leg[0]["target"] for leg in legs)),
        advice=tuple(_advice(swept, leg) for leg in legs),
        rocs=tuple(_roc(swept, leg, noisiest and noisiest["source"]) for leg in legs),
        detection=tuple(_detection(swept, leg) for leg in legs),
        goldens=swept["goldens"],
        link=_link(swept),
    )


def estimate(told: Record, value: str = "rate") -> Estimate:
    """A rate as the sweep tells it. ``n``: rows, or images of a fault-free engine, which are no faults."""
    return Estimate(told[value], told["low"], told["high"], told.get("faults", 0), told["n"])


def at_main(swept: Record, records: Sequence[Record]) -> list[Record]:
    """Those at the relative tolerance that the figures are of."""
    return [record for record in records if record["rtol"] == swept["rtol"]["main"]]


def _leg(swept: Record, target: str, where: str) -> list[Record]:
    """All images, then each tier, of the place's first fault model: the one that the other figures show."""
    mine = [part for part in swept["tiers"] if (part["target"], part["where"]) == (target, where)]
    return [part for part in mine if _model(part) == _model(mine[0])]


def _model(part: Record) -> FaultModel:
    return FaultModel(*(part[name] for name in FaultModel._fields))


def _title(part: Record) -> str:
    return f"{part['target'].capitalize()}, {part['where']}s, {_named(part)}"


def _named(part: Record) -> str:
    return model_name(_model(part).label)


def tier_name(swept: Record, tier: int | None) -> str:
    if tier is None:
        return "all images"
    edges = swept["tier_edges"][tier]
    return f"margin {'[' if edges['low'] == 0 else '('}{edges['low']:g}, {edges['high']:g}]"


def _floor(swept: Record, source: Record) -> float:
    """Smallest absolute tolerance without a false alarm; infinite where none is large enough."""
    found = at_main(swept, source["floors"])[0]["smallest_atol"]
    return float("inf") if found is None else float(found)


def _events(part: Record) -> list[str]:
    return [event for event in EVENTS if event == "any" or part["n_sdc1"] is not None]


# ---- tables


def _floors(swept: Record, legs: Sequence[Sequence[Record]], target: str) -> Table:
    leg = next(leg for leg in legs if leg[0]["target"] == target)
    rows = []
    for number, source in enumerate(leg[0]["noise"]):
        found = [at_main(swept, part["noise"][number]["floors"])[0] for part in leg]
        floors = ["none" if f["smallest_atol"] is None else at_least(f["smallest_atol"]) for f in found]
        most = percent(found[0]["false_alarm_upper"])
        emulated = f" ({source['arithmetic']})" if "emulated" in source["arithmetic"] else ""
        rows.append((source["source"] + emulated, str(source["n"]), *floors, most))
    tiers = (tier_name(swept, part["tier"]) for part in leg)
    columns = ("fault-free engine", "images", *tiers, "alarms then, at most")
    return Table(
        f"floors-{target}", f"{target.capitalize()}: smallest atol without a false alarm", columns, tuple(rows)
    )


def _advice(swept: Record, leg: Sequence[Record]) -> Table:
    events, wanted = _events(leg[0]), percent(swept["wanted_detection"])
    columns = ["images", "no alarm from atol"]
    for event in events:
        columns += [f"{EVENTS[event]} detected there", f"{wanted} of {EVENTS[event]} up to atol"]
    rows, notes = [], []
    for part in leg:
        floor = at_main(swept, part["noise"][0]["floors"])[0]
        atol = floor["smallest_atol"]
        cells = [tier_name(swept, part["tier"]), "none" if atol is None else at_least(atol)]
        reasons = []
        for event in events:
            found = floor[f"detection_{event}"]
            advice = at_main(swept, part["recommended"][event])[0]
            cells += ["no such row" if found is None else rate(estimate(found)), _up_to(advice)]
            if advice["reason"]:
                reasons.append(f"{EVENTS[event]}: {advice['reason']}")
        rows.append(tuple(cells))
        notes.append("; ".join(reasons))
    name = f"advice-{leg[0]['target']}-{leg[0]['where']}"
    return Table(name, _title(leg[0]), tuple(columns), tuple(rows), tuple(notes))


def _up_to(advice: Record) -> str:
    """The recommended tolerance, or in a word why there is none; the sentence is the row's note."""
    if advice["atol"] is not None:
        return at_most(advice["atol"]) + ("" if advice["feasible"] else ", in the noise")
    reason = advice["reason"] or ""
    if reason.startswith("any"):
        return "any"
    if advice["detection"] is None:
        return "no such row"
    return "too few rows" if "too few" in reason else "out of reach"


# ---- figures


def _roc(swept: Record, leg: Sequence[Record], noisiest: str | None) -> Figure:
    panels, lines = [], []
    for part in leg:
        name = tier_name(swept, part["tier"])
        own, *others = part["roc"]
        series = {event: _levels(own, event) for event in _events(part)}
        compared = {
            event: _levels(other, event) for other in others if other["source"] == noisiest for event in _events(part)
        }
        panels.append(roc.Panel(name, series, compared))
        for event in series:
            lines += [
                Line(name, f"area, {EVENTS[event]}, {area['source']}", estimate(area, "auc"))
                for area in at_main(swept, part["auc"][event])
            ]
    first = leg[0]
    drawing = roc.roc_panels(panels, EVENTS, f"ROC per tier. {_title(first)}")
    return Figure(f"roc-{first['target']}-{first['where']}", _title(first), drawing, tuple(lines))


def _levels(curve: Record, event: str) -> list[roc.Level]:
    return [
        roc.Level(point["atol"], point["false_alarm"], estimate(point[event]))
        for point in curve["points"]
        if point[event]
    ]


def _detection(swept: Record, leg: Sequence[Record]) -> Figure:
    part = leg[0]
    points = at_main(swept, part["grid"])
    series = {
        event: [(p["atol"], estimate(p[f"detection_{event}"])) for p in points if p[f"detection_{event}"]]
        for event in _events(part)
    }
    alarms = [(p["atol"], estimate(p["false_alarm"])) for p in points]
    rules = [*_own_rules(swept), *_floor_rules(swept, part["noise"])]
    names = {**{event: f"{EVENTS[event]} flagged" for event in EVENTS}, "alarm": "false alarms"}
    drawing = roc.by_tolerance({**series, "alarm": alarms}, rules, names, f"Flagged by tolerance. {_title(part)}")
    lines = [
        Line(f"atol {tolerance(atol)}", names[event], found) for event, told in series.items() for atol, found in told
    ]
    return Figure(f"detection-{part['target']}-{part['where']}", _title(part), drawing, tuple(lines))


def _own_rules(swept: Record) -> Iterator[roc.Rule]:
    if swept["tolerance"]["rtol"] == swept["rtol"]["main"]:
        for atol in dict.fromkeys(swept["tolerance"]["atol"]):
            yield roc.Rule(f"the campaign's tolerance, atol {tolerance(atol)}", "margin", x=atol)


def _floor_rules(swept: Record, sources: Sequence[Record]) -> Iterator[roc.Rule]:
    for number, source in enumerate(sources):
        floor = _floor(swept, source)
        if 0 < floor < float("inf"):
            told = f"no false alarm of {source['source']} from atol {at_least(floor)}"
            yield roc.Rule(told, "other" if number else "floor", x=floor)


# ---- the first attention module


def _link(swept: Record) -> Link | None:
    link = swept["link"]
    if link is None or not link["models"]:
        return None
    model = _model(link["models"][0])
    parts = [part for part in link["models"] if _model(part) == model]
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
        f" Shown: {_named(part)}, {part['n_sdc1']:,} of {part['n_rows']:,} rows changed the prediction."
    )


def _link_figure(swept: Record, link: Record, part: Record) -> Figure:
    points = at_main(swept, part["grid"])
    series = {n: [(p["atol"], estimate(p[n])) for p in points if p[n]] for n in ("sensitivity", "specificity")}
    rules = [*_own_rules(swept), *_floor_rules(swept, link["noise"])]
    title = f"{_named(part)[0].upper()}{_named(part)[1:]} inside {link['module']}"
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
    """At the campaign's own tolerance, or the nearest that was swept."""
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
