"""Inside the model: how deep faults go and what becomes of them, where `testbed fault lens` has looked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from testbed.report.estimate import RateEstimate
from testbed.report.formatting import CLASS_NAMES, OUTCOME_NAMES, count, rate
from testbed.report.read.evidence import Evidence
from testbed.report.sections.swept import Table

if TYPE_CHECKING:
    from testbed.sensitivity.campaign_lens.record import LensDimension, LensEstimate, LensGroup, LensModel, MedianDepth

_TITLES: dict[LensDimension, str] = {
    "kind": "by kind of site",
    "bit_class": "by class of bit",
    "block": "by block",
    "outcome": "by outcome",
}
_COLUMNS = ("faults", "n", "absorbed", "in its own block", "median depth", "taken over", "repaired")
_BLOCKS = "outside the blocks"


@dataclass(frozen=True)
class LensSection:
    """The lens over one fault model. name: the fault model; sample: how faults were drawn."""

    name: str
    sample: str
    tables: tuple[Table, ...]


def lens_sections(evidence: Evidence) -> tuple[LensSection, ...]:
    """One for each fault model that was looked at; empty where none was."""
    if evidence.lens is None:
        return ()
    return tuple(_section(number, model) for number, model in enumerate(evidence.lens.models))


def _section(number: int, model: LensModel) -> LensSection:
    tables = [
        Table(
            f"lens-{number}-{by}",
            f"{model.name}, {title}",
            _COLUMNS,
            tuple(_cells(group) for group in [*model.by("all"), *model.by(by)]),
        )
        for by, title in _TITLES.items()
    ]
    tables += [_states(number, model), _areas(number, model), _bands(number, model)]
    drawn = ", ".join(f"{count(g.drawn)} of {count(g.faults)} {g.outcome}" for g in model.sample if g.faults)
    return LensSection(model.name, drawn, tuple(tables))


def _cells(group: LensGroup) -> tuple[str, ...]:
    return (
        _named(group),
        count(group.n),
        _share(group.absorbed),
        _share(group.within[0].share),
        _median(group.median_depth),
        _share(group.taken_over),
        _share(group.repaired),
    )


def _states(number: int, model: LensModel) -> Table:
    rows = tuple(
        (change.after, change.change.replace("_", " "), _share(change.share), count(change.share.n))
        for change in model.changes
    )
    title = f"{model.name}, at which state, of the faults that change so"
    return Table(f"lens-{number}-states", title, ("after", "what", "share", "n"), rows)


def _areas(number: int, model: LensModel) -> Table:
    rows = tuple(
        (
            "all bits" if entry.bit_class is None else CLASS_NAMES.get(entry.bit_class, entry.bit_class),
            {"sdc1": "SDC-1", "outside": "outside tolerance"}[entry.event],
            count(entry.n),
            count(entry.events),
            _area(entry.auc),
            _area(entry.auc_alike),
        )
        for entry in model.predictions
    )
    columns = ("bits", "event", "faults", "events", "AUC", "AUC, same block and bits")
    return Table(f"lens-{number}-areas", f"{model.name}, does the rank predict the outcome?", columns, rows)


def _bands(number: int, model: LensModel) -> Table:
    rows = tuple(
        (
            str(band.low) if band.low == band.high else f"{band.low} to {band.high}",
            count(band.sdc1.n),
            _share(band.sdc1),
            _share(band.outside),
        )
        for band in model.bands
        if band.bit_class is None
    )
    columns = ("rank of the true class", "rows", "SDC-1", "outside tolerance")
    return Table(f"lens-{number}-bands", f"{model.name}, rates by that rank, all bits", columns, rows)


def _named(group: LensGroup) -> str:
    if group.by == "all":
        return "all"
    if group.value is None:
        return _BLOCKS
    names = {"bit_class": CLASS_NAMES, "outcome": {**OUTCOME_NAMES, "outside": "otherwise outside tolerance"}}
    prefix = "block " if group.by == "block" else ""
    return prefix + names.get(group.by, {}).get(str(group.value), str(group.value))


def _share(estimate: LensEstimate) -> str:
    return rate(RateEstimate(estimate.value, estimate.low, estimate.high, estimate.n, estimate.n))


def _area(estimate: LensEstimate | None) -> str:
    if estimate is None:
        return "too few events"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _median(depth: MedianDepth) -> str:
    value, low, high = ("never" if end is None else str(end) for end in (depth.value, depth.low, depth.high))
    return f"{value} [{low}, {high}]"
