"""What protection bought, as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType

from testbed.analysis.outputs.confidence import interval_name
from testbed.cli.tables.compare_cells import new_table, percent_cell
from testbed.cli.tables.fitting import FittedTable
from testbed.cli.tables.prose import Prose, stacked
from testbed.core.outcome import MEASURE_NAMES
from testbed.protect.paired.record import (
    AffectedRows,
    BecameOutcome,
    CheckerFaults,
    EventChange,
    FalseAlarms,
    FollowedAlarms,
    NeedlessAlarms,
    ProtectedGroup,
    ProtectionComparison,
    ShareRemoved,
    TierFalseAlarms,
)
from testbed.protect.tier_alarms import TierAlarms

_SHOWN = 5  # rows of SDC-1 newly made


def protection_tables(compared: ProtectionComparison, by: str) -> RenderableType:
    """Tables of a paired comparison. by: groups within each fault model: "kind", "bit_class" or "tier"."""
    groups = [group for group in compared.groups if group.by in ("all", by)]
    parts: list[RenderableType] = [*_head(compared)]
    for event in ("sdc1", "outside"):
        changes = [(group, group.sdc1 if event == "sdc1" else group.outside) for group in groups]
        if rows := [(group, change) for group, change in changes if change is not None]:
            parts += ["", _changes(MEASURE_NAMES[event], rows, compared.confidence)]
    if affected := [entry for entry in compared.affected if entry.by == "all"]:
        parts += ["", _affected(affected)]
    if followed := [entry for entry in compared.second_runs if entry.by in ("all", by) and entry.alarms]:
        parts += ["", _second_runs(compared, followed)]
    if compared.checkers:
        parts += ["", _checkers(compared.checkers)]
    return stacked([*parts, "", *_alarms(compared), *_new_sdc(compared), "", Prose(compared.method, style="dim")])


def _head(compared: ProtectionComparison) -> Iterator[RenderableType]:
    for name, side in (("plain", compared.plain), ("protected", compared.protected)):
        start = f"{name}  {side.folder}"
        yield Prose(
            f"{start}: {side.name}, seed {side.seed}, {side.engine.backend} {side.engine.precision}, {side.faults:,} faults,"
            f" {side.rows:,} rows",
            indent=3,
            bold=len(start),
        )
    yield f"passes: {', '.join(compared.passes)}"
    yield f"{compared.pairing.faults:,} faults, {compared.pairing.rows:,} rows (fault x image) pair"
    for side_name in ("plain", "protected"):
        kinds = [entry for entry in compared.pairing.unmatched if entry.side == side_name]
        if kinds:
            by_kind = ", ".join(f"{entry.kind} {entry.rows:,}" for entry in kinds)
            yield Prose(f"rows of the {side_name} campaign alone, by kind of site: {by_kind}", style="yellow")
    yield from (Prose(f"note: {note}", style="yellow") for note in compared.notes)


def _changes(name: str, rows: Sequence[tuple[ProtectedGroup, EventChange]], confidence: float) -> FittedTable:
    numbers = ("before, %", "after, %", "removed, %", "corrected, %")
    table = new_table(
        f"{name} before and after, with {100 * confidence:g} % intervals",
        ["", "faults", "rows", *numbers, "new rows"],
        right=("faults", "rows", "new rows"),
        whole=numbers,
    )
    for group, change in rows:
        if group.by == "all":
            table.add_section()
        table.add_row(
            _fault_model(group) if group.by == "all" else f"  {group.value}",
            f"{group.faults:,}",
            f"{group.rows:,}",
            percent_cell(change.before),
            percent_cell(change.after),
            _share_cell(change.removed),
            _share_cell(change.corrected),
            f"{change.new_rows:,}",
            style="bold" if group.by == "all" else None,
        )
    return table


_EVENTS = {"sdc1": "another top-1", "outside": "outside the tolerance", "nonfinite": "not finite"}


def _affected(affected: Sequence[AffectedRows]) -> FittedTable:
    table = new_table(
        "what became of outputs that the plain engine gave",
        ["", "plain output", "faults", "rows", "detected, %", "at least, 95 % | 99 %", "became"],
        right=("faults", "rows"),
        whole=("detected, %", "at least, 95 % | 99 %"),
    )
    for entry in affected:
        seen = entry.detected
        table.add_row(
            _fault_model(entry),
            _EVENTS[entry.event],
            f"{entry.faults:,}",
            f"{entry.rows:,}",
            f"{100 * seen.rate:.2f} [{100 * seen.low:.2f}, {100 * seen.high:.2f}]",
            f"{100 * seen.low_95:.2f} | {100 * seen.low_99:.2f}",
            _became(entry.became),
        )
    return table


def _second_runs(compared: ProtectionComparison, followed: Sequence[FollowedAlarms]) -> FittedTable:
    again = "the weights restored first" if compared.on_detected == "reload" else "the weights as they were"
    columns = ("run twice, %", "after a true alarm, %", "needlessly, %", "recovered, %", "at least, 95 % | 99 %")
    each = compared.seconds_per_alarm
    assert each is not None
    table = new_table(
        f"second runs after alarms, {again}: {seconds_text(each)} each",
        ["", "alarms", *columns, "more time per faulty inference"],
        right=("alarms", "more time per faulty inference"),
        whole=columns,
    )
    for entry in followed:
        if entry.by == "all":
            table.add_section()
        kept = entry.recovered
        table.add_row(
            _fault_model(entry) if entry.by == "all" else f"  {entry.value}",
            f"{entry.alarms:,}",
            percent_cell(entry.run_twice),
            percent_cell(entry.run_twice_rightly),
            percent_cell(entry.run_twice_needlessly),
            "" if kept is None else f"{100 * kept.rate:.2f} [{100 * kept.low:.2f}, {100 * kept.high:.2f}]",
            "" if kept is None else f"{100 * kept.low_95:.2f} | {100 * kept.low_99:.2f}",
            seconds_text(entry.seconds.mean),
            style="bold" if entry.by == "all" else None,
        )
    return table


def seconds_text(seconds: float) -> str:
    """A time on an engine, to three digits: "1.25 ms"."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def _checkers(checkers: Sequence[CheckerFaults]) -> FittedTable:
    table = new_table(
        "faults in what protection itself added, of the protected campaign alone",
        ["", "kind", "faults", "rows", "needless alarms, %", "outcomes"],
        right=("faults", "rows"),
        whole=("needless alarms, %",),
    )
    for entry in checkers:
        tensors = "activations" if entry.where == "activation" else "weights"
        cells = f"{entry.faults:,}", f"{entry.rows:,}", percent_cell(entry.needless), _became(entry.outcomes)
        table.add_row(f"{tensors}, {entry.op}", entry.kind, *cells)
    return table


def _alarms(compared: ProtectionComparison) -> Iterator[RenderableType]:
    for entry in compared.needless:
        if entry.alarms and entry.of_alarms is not None:
            yield (
                f"{_fault_model(entry)}: {entry.needless:,} of {entry.alarms:,} alarms were not needed, as the output was"
                f" inside the tolerance: {percent_cell(entry.of_alarms)} % of alarms, {percent_cell(entry.of_rows)} % of all"
            )
    for alarms in compared.false_alarms:
        images = "images of the campaign" if alarms.source == "campaign" else "unseen images when it was protected"
        yield (
            f"without a fault, {alarms.engine}: {alarms.alarms:,} alarms on {alarms.images:,} {images}, so at most"
            f" {100 * alarms.bound_95:.2f} % at 95 % confidence, {100 * alarms.bound_99:.2f} % at 99 %{_at_most(alarms)}"
        )
        if alarms.by_tier:
            yield Prose(tiers_line(alarms.by_tier), indent=3)


def tiers_line(tiers: Sequence[TierFalseAlarms | TierAlarms]) -> str:
    """False alarms by tier, each with its upper bound, as a line."""
    parts = [
        f"{'wrong' if tier.low is None or tier.high is None else interval_name(tier.low, tier.high)}"
        f" {tier.alarms:,} of {tier.images:,} (at most {100 * tier.bound_95:.2g} %)"
        for tier in tiers
        if tier.images
    ]
    return f"by margin: {', '.join(parts)}"


def _at_most(alarms: FalseAlarms) -> str:
    seconds = alarms.seconds_bound_95
    return "" if seconds is None else f"; second runs of clean images at most {seconds_text(seconds)} per image (95 %)"


def _new_sdc(compared: ProtectionComparison) -> Iterator[RenderableType]:
    rows = compared.new_sdc
    if not rows:
        yield "no row has another top-1 under protection alone"
        return
    shown = rows[:_SHOWN]
    more = f", the first {len(shown)} (--json and --to DIR have all)" if len(shown) < len(rows) else ""
    yield f"{len(rows):,} rows have another top-1 under protection alone{more}:"
    for row in shown:
        bit = "" if row.bit is None else f" {row.bit}"
        yield f"   {row.site}[{row.index}] {row.op}{bit}, {row.image_id}: {row.outcome} in the plain engine"


def _fault_model(entry: ProtectedGroup | AffectedRows | NeedlessAlarms | FollowedAlarms) -> str:
    return f"{entry.target} {'activations' if entry.where == 'activation' else 'weights'}, {entry.op}"


def _share_cell(removed: ShareRemoved) -> str:
    if removed.share is None:
        return "none before"
    return f"{100 * removed.share:.2f} [{_end(removed.low)}, {_end(removed.high)}]"


def _end(share: float | None) -> str:
    """A bound in %; how far below -100 % a bound lies says nothing but that little was seen."""
    return "< -100" if share is None or share < -1 else f"{100 * share:.2f}"


def _became(outcomes: Sequence[BecameOutcome]) -> str:
    return ", ".join(f"{entry.outcome} {100 * entry.rate.rate:.1f} % ({entry.rows:,})" for entry in outcomes)
