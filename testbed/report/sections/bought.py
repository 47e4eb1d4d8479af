"""What protection bought: the paired comparison of a campaign and the one of its protected model, as tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from testbed.compare.record import ComparedRate
from testbed.core.folder.places import PROTECTED_CAMPAIGN
from testbed.core.words.bounds import percent_at_least
from testbed.protect.paired.record import (
    EventChange,
    FollowedAlarms,
    ProtectedGroup,
    ProtectionComparison,
    ShareRemoved,
)
from testbed.report.estimate import RateEstimate
from testbed.report.formatting import count, duration, model_name, percent_number, rate
from testbed.report.read.evidence import Evidence
from testbed.report.sections.swept import Table

_PLACES = {"activation": "activations", "weight": "weights"}
_COLUMNS = ("", "faults", "before", "after", "removed")
_TITLES = {"sdc1": "SDC-1", "outside": "Outputs outside the tolerance"}
_AGAIN = {"rerun": "the weights as they were", "reload": "the weights restored first"}


@dataclass(frozen=True)
class Bought:
    """``pairs``, ``alarms``: in a sentence. ``tables``: SDC-1 and outputs outside the tolerance, before and after; what
    followed alarms. ``page``: that of the protected campaign, from this one."""

    passes: str
    pairs: str
    alarms: tuple[str, ...]
    tables: tuple[Table, ...]
    page: str


def bought(evidence: Evidence) -> Bought | None:
    """None for a campaign without a [protect] table, or before it is compared."""
    compared = evidence.comparison
    if compared is None:
        return None
    pairing = compared.pairing
    return Bought(
        passes=", ".join(compared.passes),
        pairs=f"{count(pairing.faults)} faults and {count(pairing.rows)} rows pair",
        alarms=tuple(_alarms(compared)),
        tables=(*_changes(compared), *_second_runs(compared)),
        page=f"{PROTECTED_CAMPAIGN}/report.html",
    )


def _changes(compared: ProtectionComparison) -> Iterator[Table]:
    for event, title in _TITLES.items():
        groups = [(group, change) for group in compared.groups if (change := _change(group, event)) is not None]
        shown = [(group, change) for group, change in groups if group.by in ("all", "kind") and _happens(change)]
        if shown:
            rows = tuple(_change_row(group, change) for group, change in shown)
            notes = tuple(f"{count(change.new_rows)} rows with it under protection alone" for _, change in shown)
            yield Table(f"bought-{event}", title, _COLUMNS, rows, notes)


def _change(group: ProtectedGroup, event: str) -> EventChange | None:
    return group.sdc1 if event == "sdc1" else group.outside


def _happens(change: EventChange) -> bool:
    return change.before.rate + change.after.rate > 0


def _change_row(group: ProtectedGroup, change: EventChange) -> tuple[str, ...]:
    before, after = (_rate(own, group.faults, group.rows) for own in (change.before, change.after))
    name = _name(group) if group.by == "all" else f"{_name(group)}: {group.value}"
    return name, count(group.faults), before, after, _removed(change.removed)


def _second_runs(compared: ProtectionComparison) -> Iterator[Table]:
    followed = [entry for entry in compared.second_runs if entry.by == "all" and entry.alarms]
    if not followed or compared.seconds_per_alarm is None:
        return
    columns = ("", "alarms", "run twice", "needlessly", "recovered", "more time per faulty inference")
    yield Table(
        "bought-second-runs",
        f"Second runs after alarms, {_AGAIN.get(compared.on_detected, compared.on_detected)}:"
        f" {duration(compared.seconds_per_alarm)} each",
        columns,
        tuple(_second_run_row(entry) for entry in followed),
    )


def _second_run_row(entry: FollowedAlarms) -> tuple[str, ...]:
    twice, needlessly = (_rate(own, 0, entry.rows) for own in (entry.run_twice, entry.run_twice_needlessly))
    kept = entry.recovered
    recovered = "" if kept is None else rate(RateEstimate(kept.rate, kept.low, kept.high, 0, entry.alarms))
    return _name(entry), count(entry.alarms), twice, needlessly, recovered, duration(entry.seconds.mean)


def _alarms(compared: ProtectionComparison) -> Iterator[str]:
    for alarms in compared.false_alarms:
        images = "images of the campaign" if alarms.source == "campaign" else "unseen images when it was protected"
        yield (
            f"{count(alarms.alarms)} alarms without a fault on {count(alarms.images)} {images}, so at most"
            f" {percent_at_least(alarms.bound_95)} % (one-sided, 95 %)"
        )
    rows = len(compared.new_sdc)
    yield (
        f"{count(rows)} rows have another top-1 under protection alone"
        if rows
        else ("no row has another top-1 under protection alone")
    )


def _rate(own: ComparedRate, faults: int, rows: int) -> str:
    return rate(RateEstimate(own.rate, own.low, own.high, faults, rows))


def _removed(removed: ShareRemoved) -> str:
    if removed.share is None:
        return "none before"
    low, high = ("< −100" if end is None or end < -1 else percent_number(end, 0) for end in (removed.low, removed.high))
    return f"{percent_number(removed.share, 0)} % [{low},\u00a0{high}]"


def _name(entry: ProtectedGroup | FollowedAlarms) -> str:
    return f"{_PLACES[entry.where]}, {model_name(entry.op)}"
