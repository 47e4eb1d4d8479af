"""What `testbed sweep` found, for the page: tolerances against faults and against the noise of fault-free engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from testbed.core.outcome import EVENTS
from testbed.core.words.bounds import at_least, at_most, tolerance
from testbed.report.charts import roc
from testbed.report.formatting import percent, percent_bound, rate
from testbed.report.read.evidence import Evidence
from testbed.report.sections.link import Link, followed
from testbed.report.sections.rates import PLACES, Figure, Line
from testbed.report.sections.swept import (
    Record,
    Table,
    at_main,
    estimate,
    fault_model,
    floor_of,
    floor_rules,
    own_rules,
    tier_name,
    title_of,
)


@dataclass(frozen=True)
class Sweep:
    """What the section on tolerances shows. link: what was seen of the first attention module, None where it was not
    followed."""

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


def sweep(evidence: Evidence) -> Sweep | None:
    """None for a run that was not swept since its results were made."""
    swept = evidence.sweep
    if swept is None or not swept["tiers"]:
        return None
    target_places = [
        target_place
        for target in ("model", "attention")
        for where in PLACES
        if (target_place := _target_place(swept, target, where))
    ]
    own, *others = target_places[0][0]["noise"]
    others = [source for source in others if floor_of(swept, source) > floor_of(swept, own)]
    noisiest = max(others, key=lambda source: floor_of(swept, source), default=None)
    return Sweep(
        rtol=tolerance(swept["rtol"]["main"]),
        wanted=percent(swept["wanted_detection"]),
        own=own["source"],
        noisiest=None if noisiest is None else noisiest["source"],
        floors=tuple(
            _floors(swept, target_places, target)
            for target in dict.fromkeys(target_place[0]["target"] for target_place in target_places)
        ),
        advice=tuple(_advice(swept, target_place) for target_place in target_places),
        rocs=tuple(_roc(swept, target_place, noisiest and noisiest["source"]) for target_place in target_places),
        detection=tuple(_detection(swept, target_place) for target_place in target_places),
        goldens=swept["goldens"],
        link=followed(swept),
    )


def _target_place(swept: Record, target: str, where: str) -> list[Record]:
    """All images, then each tier, of the place's first fault model: the one that the other figures show."""
    parts = [part for part in swept["tiers"] if (part["target"], part["where"]) == (target, where)]
    return [part for part in parts if fault_model(part) == fault_model(parts[0])]


def _events(part: Record) -> list[str]:
    return [event for event in EVENTS if event == "any" or part["n_sdc1"] is not None]


# ---- tables


def _floors(swept: Record, target_places: Sequence[Sequence[Record]], target: str) -> Table:
    target_place = next(target_place for target_place in target_places if target_place[0]["target"] == target)
    rows = []
    for number, source in enumerate(target_place[0]["noise"]):
        records = [at_main(swept, part["noise"][number]["floors"])[0] for part in target_place]
        floors = ["none" if f["smallest_atol"] is None else at_least(f["smallest_atol"]) for f in records]
        most = percent_bound(records[0]["false_alarm_upper"])
        emulated = f" ({source['arithmetic']})" if "emulated" in source["arithmetic"] else ""
        rows.append((source["source"] + emulated, str(source["n"]), *floors, most))
    tiers = (tier_name(swept, part["tier"]) for part in target_place)
    columns = ("fault-free engine", "images", *tiers, "alarms then, at most")
    return Table(
        f"floors-{target}", f"{target.capitalize()}: smallest atol without a false alarm", columns, tuple(rows)
    )


def _advice(swept: Record, target_place: Sequence[Record]) -> Table:
    events, wanted = _events(target_place[0]), percent(swept["wanted_detection"])
    columns = ["images", "no alarm from atol"]
    for event in events:
        columns += [f"{EVENTS[event]} detected there", f"{wanted} of {EVENTS[event]} up to atol"]
    rows, notes = [], []
    for part in target_place:
        floor = at_main(swept, part["noise"][0]["floors"])[0]
        atol = floor["smallest_atol"]
        cells = [tier_name(swept, part["tier"]), "none" if atol is None else at_least(atol)]
        reasons = []
        for event in events:
            detection = floor[f"detection_{event}"]
            advice = at_main(swept, part["recommended"][event])[0]
            cells += ["no such row" if detection is None else rate(estimate(detection)), _up_to(advice)]
            if advice["reason"]:
                reasons.append(f"{EVENTS[event]}: {advice['reason']}")
        rows.append(tuple(cells))
        notes.append("; ".join(reasons))
    name = f"advice-{target_place[0]['target']}-{target_place[0]['where']}"
    return Table(name, title_of(target_place[0]), tuple(columns), tuple(rows), tuple(notes))


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


def _roc(swept: Record, target_place: Sequence[Record], noisiest: str | None) -> Figure:
    panels, lines = [], []
    for part in target_place:
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
    first = target_place[0]
    drawing = roc.roc_panels(panels, EVENTS, f"ROC per tier. {title_of(first)}")
    return Figure(f"roc-{first['target']}-{first['where']}", title_of(first), drawing, tuple(lines))


def _levels(curve: Record, event: str) -> list[roc.Level]:
    return [
        roc.Level(point["atol"], point["false_alarm"], estimate(point[event]))
        for point in curve["points"]
        if point[event]
    ]


def _detection(swept: Record, target_place: Sequence[Record]) -> Figure:
    part = target_place[0]
    points = at_main(swept, part["grid"])
    series = {
        event: [(p["atol"], estimate(p[f"detection_{event}"])) for p in points if p[f"detection_{event}"]]
        for event in _events(part)
    }
    alarms = [(p["atol"], estimate(p["false_alarm"])) for p in points]
    rules = [*own_rules(swept), *floor_rules(swept, part["noise"])]
    names = {**{event: f"{EVENTS[event]} flagged" for event in EVENTS}, "alarm": "false alarms"}
    drawing = roc.by_tolerance({**series, "alarm": alarms}, rules, names, f"Flagged by tolerance. {title_of(part)}")
    lines = [
        Line(f"atol {tolerance(atol)}", names[event], detected)
        for event, curve in series.items()
        for atol, detected in curve
    ]
    return Figure(f"detection-{part['target']}-{part['where']}", title_of(part), drawing, tuple(lines))
