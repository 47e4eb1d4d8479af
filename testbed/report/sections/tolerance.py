"""What `testbed sweep` found, for the page: tolerances against faults and against the noise of fault-free engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from testbed.core.outcome import EVENTS, Event
from testbed.core.site import Target, Where
from testbed.core.words.bounds import at_least, at_most, tolerance
from testbed.report.charts import roc
from testbed.report.estimate import RateEstimate
from testbed.report.formatting import percent, percent_bound, rate
from testbed.report.read.evidence import Evidence
from testbed.report.sections.link import Link, followed
from testbed.report.sections.rates import Figure, Line
from testbed.report.sections.swept import (
    Table,
    alarm_estimate,
    estimate,
    floor_of,
    floor_rules,
    own_rules,
    tier_name,
    title_of,
)
from testbed.sweep.points import AdviceRecord, RocCurve, TierNoise, detection_of
from testbed.sweep.record import SweepRecord, SweptGoldens, TierCurves

_NAMES: dict[str, str] = dict(EVENTS.items())
_TARGETS: tuple[Target, ...] = get_args(Target)
_PLACES: tuple[Where, ...] = get_args(Where)


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
    goldens: SweptGoldens
    link: Link | None


def sweep(evidence: Evidence) -> Sweep | None:
    """None for a run that was not swept since its results were made."""
    swept = evidence.sweep
    if swept is None or not swept.tiers:
        return None
    target_places = [
        target_place
        for target in _TARGETS
        for where in _PLACES
        if (target_place := _target_place(swept, target, where))
    ]
    own, *others = target_places[0][0].noise
    others = [source for source in others if floor_of(swept, source) > floor_of(swept, own)]
    noisiest = max(others, key=lambda source: floor_of(swept, source), default=None)
    return Sweep(
        rtol=tolerance(swept.rtol.main),
        wanted=percent(swept.wanted_detection),
        own=own.source,
        noisiest=None if noisiest is None else noisiest.source,
        floors=tuple(
            _floors(swept, target_places, target)
            for target in dict.fromkeys(target_place[0].target for target_place in target_places)
        ),
        advice=tuple(_advice(swept, target_place) for target_place in target_places),
        rocs=tuple(_roc(swept, target_place, noisiest) for target_place in target_places),
        detection=tuple(_detection(swept, target_place) for target_place in target_places),
        goldens=swept.goldens,
        link=followed(swept),
    )


def _target_place(swept: SweepRecord, target: Target, where: Where) -> list[TierCurves]:
    """All images, then each tier, of the place's first fault model: the one that the other figures show."""
    parts = [part for part in swept.tiers if (part.target, part.where) == (target, where)]
    return [part for part in parts if part.model_key == parts[0].model_key]


def _events(part: TierCurves) -> list[Event]:
    return [event for event in EVENTS if event == "any" or part.n_sdc1 is not None]


# ---- tables


def _floors(swept: SweepRecord, target_places: Sequence[Sequence[TierCurves]], target: Target) -> Table:
    target_place = next(target_place for target_place in target_places if target_place[0].target == target)
    rows = []
    for number, source in enumerate(target_place[0].noise):
        records = [swept.at_main(part.noise[number].floors)[0] for part in target_place]
        floors = ["none" if f.smallest_atol is None else at_least(f.smallest_atol) for f in records]
        most = percent_bound(records[0].false_alarm_upper)
        emulated = f" ({source.arithmetic})" if "emulated" in source.arithmetic else ""
        rows.append((source.source + emulated, str(source.n), *floors, most))
    tiers = (tier_name(swept, part.tier) for part in target_place)
    columns = ("fault-free engine", "images", *tiers, "alarms then, at most")
    return Table(
        f"floors-{target}", f"{target.capitalize()}: smallest atol without a false alarm", columns, tuple(rows)
    )


def _advice(swept: SweepRecord, target_place: Sequence[TierCurves]) -> Table:
    events, wanted = _events(target_place[0]), percent(swept.wanted_detection)
    columns = ["images", "no alarm from atol"]
    for event in events:
        columns += [f"{EVENTS[event]} detected there", f"{wanted} of {EVENTS[event]} up to atol"]
    rows, notes = [], []
    for part in target_place:
        floor = swept.at_main(part.noise[0].floors)[0]
        atol = floor.smallest_atol
        cells = [tier_name(swept, part.tier), "none" if atol is None else at_least(atol)]
        reasons = []
        for event in events:
            detection = detection_of(floor, event)
            advice = swept.at_main(part.recommended.of(event))[0]
            cells += ["no such row" if detection is None else rate(estimate(detection)), _up_to(advice)]
            if advice.reason:
                reasons.append(f"{EVENTS[event]}: {advice.reason}")
        rows.append(tuple(cells))
        notes.append("; ".join(reasons))
    name = f"advice-{target_place[0].target}-{target_place[0].where}"
    return Table(name, title_of(target_place[0]), tuple(columns), tuple(rows), tuple(notes))


def _up_to(advice: AdviceRecord) -> str:
    """The recommended tolerance, or in a word why there is none; the sentence is the row's note."""
    if advice.atol is not None:
        return at_most(advice.atol) + ("" if advice.feasible else ", in the noise")
    reason = advice.reason or ""
    if reason.startswith("any"):
        return "any"
    if advice.detection is None:
        return "no such row"
    return "too few rows" if "too few" in reason else "out of reach"


# ---- figures


def _roc(swept: SweepRecord, target_place: Sequence[TierCurves], noisiest: TierNoise | None) -> Figure:
    panels, lines = [], []
    for part in target_place:
        name = tier_name(swept, part.tier)
        (own, *others), events = part.roc, _events(part)
        series: dict[str, list[roc.Level]] = {event: _levels(own, event) for event in events}
        compared: dict[str, list[roc.Level]] = {
            event: _levels(other, event)
            for other in others
            if noisiest and other.source == noisiest.source
            for event in events
        }
        panels.append(roc.Panel(name, series, compared))
        for event in events:
            lines += [
                Line(
                    name,
                    f"area, {EVENTS[event]}, {area.source}",
                    RateEstimate(area.auc, area.low, area.high, area.faults, area.n),
                )
                for area in swept.at_main(part.auc.of(event))
            ]
    first = target_place[0]
    drawing = roc.roc_panels(panels, _NAMES, f"ROC per tier. {title_of(first)}")
    return Figure(f"roc-{first.target}-{first.where}", title_of(first), drawing, tuple(lines))


def _levels(curve: RocCurve, event: Event) -> list[roc.Level]:
    return [
        roc.Level(point.atol, point.false_alarm, estimate(detected))
        for point in curve.points
        if (detected := point.detection(event))
    ]


def _detection(swept: SweepRecord, target_place: Sequence[TierCurves]) -> Figure:
    part = target_place[0]
    points = swept.at_main(part.grid)
    series: dict[str, list[tuple[float, RateEstimate]]] = {
        event: [(p.atol, estimate(detected)) for p in points if (detected := detection_of(p, event))]
        for event in _events(part)
    }
    alarms = [(p.atol, alarm_estimate(p.false_alarm)) for p in points]
    rules = [*own_rules(swept), *floor_rules(swept, part.noise)]
    names = {**{event: f"{name} flagged" for event, name in _NAMES.items()}, "alarm": "false alarms"}
    drawing = roc.by_tolerance({**series, "alarm": alarms}, rules, names, f"Flagged by tolerance. {title_of(part)}")
    lines = [
        Line(f"atol {tolerance(atol)}", names[event], detected)
        for event, curve in series.items()
        for atol, detected in curve
    ]
    return Figure(f"detection-{part.target}-{part.where}", title_of(part), drawing, tuple(lines))
