"""A tolerance sweep as tables for people: one relative tolerance, all images, and what each tier can do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from rich.console import RenderableType

from testbed.cli.tables.advice import deployed, percent
from testbed.cli.tables.fitting import FittedTable
from testbed.cli.tables.prose import Prose, stacked
from testbed.core.outcome import EVENTS, Event
from testbed.core.site import Target, Where
from testbed.core.words.bounds import at_least, at_most, percent_at_least
from testbed.sweep.points import DetectionRecord, TierNoise, TolerancePoint, detection_of
from testbed.sweep.record import LinkPoint, LinkRate, LinkRecord, SweepRecord, TierCurves

GridPoint = TypeVar("GridPoint", TolerancePoint, LinkPoint)
_LINK: dict[LinkRate, str] = {
    "sensitivity": "sensitivity\nP(out | SDC-1)",
    "specificity": "specificity\nP(in | no SDC-1)",
    "ppv": "PPV\nP(SDC-1 | out)",
    "npv": "NPV\nP(no SDC-1 | in)",
}


def sweep_tables(swept: SweepRecord, full: bool = False) -> RenderableType:
    """The last lines say which tolerance to deploy. full: with each tier, and every tolerance."""
    parts: list[RenderableType] = [*_head(swept)]
    for target in dict.fromkeys(source.target for source in swept.sources):
        parts += ["", _noise(swept, target, full)]
    target_places = dict.fromkeys((part.target, part.where) for part in swept.tiers)
    for target in dict.fromkeys(target for target, _ in target_places):
        parts += [] if full else ["", _advice(swept, [part for part in swept.tiers if _is_whole(part, target)])]
    for target_place in target_places if full else ():
        of_target = [part for part in swept.tiers if (part.target, part.where) == target_place]
        parts += ["", _advice(swept, of_target), "", _grid(swept, *target_place)]
    if swept.link is not None:
        parts += ["", *_link(swept, swept.link, full)]
    more = "" if full else "Each tier and tolerance: --full. "
    parts += ["", Prose(f"{more}Every rtol, tier and fault model: --json, or --to FILE.csv.", style="dim")]
    parts += ["", *(Prose(line, indent=2, bold=line.index(":")) for line in deployed(swept))]
    return stacked(parts)


def _head(swept: SweepRecord) -> Iterator[RenderableType]:
    atol = " ".join(f"{value:g}" for value in dict.fromkeys(swept.tolerance.atol))
    yield Prose(
        f"{swept.name}: the campaign's tolerance is atol {atol}, rtol {swept.tolerance.rtol:g}; below, rtol is"
        f" {swept.rtol.main:g} and intervals are {100 * swept.confidence:g} %",
        bold=len(swept.name),
    )
    yield f"false alarms: fault-free engines against {swept.goldens.false_alarm}"
    yield f"detection: faults against {swept.goldens.detection}"
    yield from _alarms(swept)
    yield from (Prose(f"note: {note}", style="yellow") for note in swept.notes)


def _noise(swept: SweepRecord, target: Target, full: bool) -> FittedTable:
    records = [part for part in swept.tiers if part.target == target and (full or part.tier is None)]
    first = records[0]
    tiers = [part for part in records if part.model_key == first.model_key]
    table = _new_table(
        f"{target}: smallest atol without a false alarm",
        ["fault-free engine", "images", *(_tier(swept, part.tier) for part in tiers), "then alarms are\nat most, %"],
        left=("fault-free engine",),
    )
    for number, source in enumerate(first.noise):
        floors = [swept.at_main(part.noise[number].floors)[0] for part in tiers]
        table.add_row(
            f"{source.source}{_emulated(source)}",
            f"{source.n:,}",
            *("none" if f.smallest_atol is None else at_least(f.smallest_atol) for f in floors),
            percent_at_least(floors[0].false_alarm_upper),
        )
    return table


def _emulated(source: TierNoise) -> str:
    return f" ({source.arithmetic})" if "emulated" in source.arithmetic else ""


def _is_whole(part: TierCurves, target: Target) -> bool:
    return part.target == target and part.tier is None


def _advice(swept: SweepRecord, records: Sequence[TierCurves]) -> FittedTable:
    """Advice on tolerances. records: of one target, and of one place or without tiers."""
    wanted = f"{100 * swept.wanted_detection:g} %"
    places = dict.fromkeys(part.where for part in records)
    about = _target_place(records[0].target, records[0].where) if len(places) == 1 else records[0].target
    events = _events(records[0])
    columns = [
        "",
        "rows",
        *(column for e in events for column in (EVENTS[e], f"AUC, {EVENTS[e]}", f"{wanted} up to")),
    ]
    table = _new_table(f"{about}: how well tolerances tell faults from noise", columns, left=("",))
    by_tier = any(part.tier is not None for part in records)
    previous = None
    for part in records:
        if part.where != previous or (by_tier and part.tier is None):
            table.add_section()
            previous = part.where
        kind = "" if len(places) == 1 else "activations, " if part.where == "activation" else "weights, "
        name = f"{kind}{part.op}" if part.tier is None else f"  {_tier(swept, part.tier)}"
        cells = [cell for event in events for cell in _cells(swept, part, event)]
        table.add_row(name, f"{part.n_rows:,}", *cells, style="bold" if part.tier is None else None)
    return table


def _alarms(swept: SweepRecord) -> Iterator[str]:
    """How many rows of a protected engine no tolerance is asked about."""
    parts = [part for part in swept.tiers if part.tier is None]
    if alarms := sum(part.n_detected or 0 for part in parts):
        rows = sum(part.n_rows for part in parts)
        yield (
            f"{alarms:,} of {rows:,} rows had an alarm of the engine's own checks: they need no tolerance, and are counted in"
            " neither event"
        )


def _events(part: TierCurves) -> list[Event]:
    return [event for event in EVENTS if event == "any" or part.n_sdc1 is not None]


def _cells(swept: SweepRecord, part: TierCurves, event: Event) -> Iterator[str]:
    count = part.n_sdc1 if event == "sdc1" else part.n_corrupted
    yield f"{count:,}"
    own = next(iter(swept.at_main(part.auc.of(event))), None)
    yield "n/a" if own is None else f"{own.auc:.3f} [{own.low:.3f}, {own.high:.3f}]"
    advice = swept.at_main(part.recommended.of(event))[0]
    if advice.atol is not None:
        yield at_most(advice.atol) + ("" if advice.feasible else " (in noise)")
    elif count == 0:
        yield "n/a"
    else:
        reason = str(advice.reason)
        yield "any" if reason.startswith("any") else "too few" if "too few" in reason else "out of reach"


def _grid(swept: SweepRecord, target: Target, where: Where) -> FittedTable:
    part = swept.whole(target, where)
    events = _events(part)
    sources = [noise for noise in part.noise if noise.file == "plain"]
    heads = [f"{source.engine} {source.precision}\nbatch {source.batch}" for source in sources]
    table = _new_table(
        f"{_target_place(target, where)}, {part.op}, all images: at rtol {swept.rtol.main:g}, false alarms of"
        " fault-free engines, and faults flagged, %",
        ["atol", *heads, *(f"{EVENTS[event]}\nflagged" for event in events)],
        left=(),
    )
    alarms = {
        (record.source, point.rtol, point.atol): point
        for record in swept.false_alarms
        if (record.target, record.tier) == (target, None)
        for point in record.grid
    }
    for point in _shown(swept, part.grid):
        is_own = point.atol in swept.tolerance.atol and point.rtol == swept.tolerance.rtol
        rates = [_percent(detection_of(point, event)) for event in events]
        clean = [alarms[source.source, point.rtol, point.atol] for source in sources]
        others = [f"{100 * alarm.rate:.2f}" for alarm in clean[1:]]
        style = "bold" if is_own else None
        table.add_row(f"{point.atol:.3g}", percent(clean[0]), *others, *rates, style=style)
    return table


def _shown(swept: SweepRecord, points: Iterable[GridPoint]) -> Iterator[GridPoint]:
    """Points at the main rtol; of the default grid, only the powers of ten and what belongs to this campaign."""
    for point in points:
        between = swept.atol is None and f"{point.atol!r}".startswith(("3e-", "0.3", "0.03", "0.003", "0.0003"))
        if point.rtol == swept.rtol.main and not between:
            yield point


def _link(swept: SweepRecord, link: LinkRecord, full: bool) -> Iterator[RenderableType]:
    """A table of the link. full: of every fault model, not of each place's first alone."""
    limit = f" (limited to {link.limit:,})" if link.limit else ""
    yield (
        f"Is {link.output} out of tolerance a sign that the top-1 will change? {link.faults:,} faults{limit} inside"
        f" {link.module}, {link.rows:,} rows; {link.checked:,} of them run to the end again, with the stored"
        " logits, bit for bit."
    )
    first: dict[Where, tuple[str, ...]] = {}
    for part in link.models:
        is_first = first.setdefault(part.where, part.model_key) == part.model_key
        if part.tier is None and (full or is_first):
            title = (
                f"{_target_place(part.target, part.where)}, {part.op}: top-1 changed in {part.n_sdc1:,} of"
                f" {part.n_rows:,} rows; rates in %"
            )
            table = _new_table(title, ["atol", *_LINK.values()], left=())
            for point in _shown(swept, part.grid):
                table.add_row(f"{point.atol:.3g}", *(_percent(point.rates[name]) for name in _LINK))
            yield table


# ---- cells


def _new_table(title: str, columns: Iterable[str], left: Iterable[str]) -> FittedTable:
    table = FittedTable(title=title)
    for name in columns:
        table.add_column(name, justify="left" if name in left else "right")
    return table


def _target_place(target: Target, where: Where) -> str:
    return f"{target} {'activations' if where == 'activation' else 'weights'}"


def _tier(swept: SweepRecord, tier: int | None) -> str:
    return "all images" if tier is None else swept.tier_interval(tier)


def _percent(rate: DetectionRecord | None) -> str:
    if rate is None:
        return "n/a"
    undecided = f" ({rate.undecided} undecided)" if rate.undecided else ""
    return f"{percent(rate)}{undecided}"
