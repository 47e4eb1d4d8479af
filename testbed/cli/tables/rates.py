"""A summary's rates as tables: one per target and place, each fault model's total, and what it comes to by part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from testbed.analysis.outputs.confidence import interval_name
from testbed.campaign.summary.record import Marginal, RateRecord, Summary
from testbed.cli.tables.fitting import FittedTable

BY = {
    "tier": "by confidence tier",
    "block": "by block",
    "kind": "by site kind",
    "site": "by site",
    "bit_class": "by bit class",
    "bit": "by bit",
}
_SHORT = ("tier", "block", "kind", "bit_class")


@dataclass(frozen=True)
class Details:
    """What tables of rates show. by: what rates are told apart by, of every fault model, or of those in ``ops`` where
    it names any. Without either: the usual, of the first fault model."""

    by: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()


USUAL = Details()


def rate_tables(summary: Summary, details: Details) -> Iterator[FittedTable | str]:
    """The tables, each followed by the one-sided bounds of its fault models' totals."""
    target_places = dict.fromkeys(
        (m.target, m.where) for m in summary.marginals if not details.ops or m.op in details.ops
    )
    for target, where in target_places:
        yield _rates_table(summary, target, where, details)
        lines = [_bounds(record) for record in _totals(summary, target, where, details)]
        if any(lines):
            yield "\n".join(filter(None, lines))


def _rates_table(summary: Summary, target: str, where: str, details: Details) -> FittedTable:
    records = [m for m in summary.marginals if (m.target, m.where) == (target, where)]
    has_classes = any(m.rate("sdc1") for m in records)
    confidence = f"{100 * summary.confidence:g} %"
    noun = "activations" if where == "activation" else "weights"
    table = FittedTable(title=f"{target}: faults in {noun}, rates in % with {confidence} intervals")
    for name in ("", "faults", "n", *(["SDC-1"] if has_classes else []), "outside tolerance", "non-finite"):
        table.add_column(name, justify="right" if name in ("faults", "n") else "left", no_wrap=True)
    totals = _totals(summary, target, where, details)
    for record in totals:
        _add(table, f"{record.op}, all", record, has_classes, style="bold")
    ops = [record.op for record in totals]
    for op in ops if details.by or details.ops else ops[:1]:
        for by in details.by or _SHORT:
            part = [m for m in records if m.by == by and m.op == op]
            if len(part) > 1 or (part and details.by):
                table.add_section()
                table.add_row(f"{op}, {BY[by]}", style="italic")
                for record in part:
                    _add(table, f"  {_value(summary, part, record)}", record, has_classes)
    return table


def _totals(summary: Summary, target: str, where: str, details: Details) -> list[Marginal]:
    records = [m for m in summary.marginals if (m.target, m.where, m.by) == (target, where, "all")]
    return [m for m in records if not details.ops or m.op in details.ops]


def _value(summary: Summary, part: Sequence[Marginal], record: Marginal) -> str:
    by, value = record.by, record.value
    if by == "tier" and isinstance(value, int):
        tier = summary.tiers[value]
        return f"{interval_name(tier.low, tier.high)}{' thin' if tier.thin else ''}"
    if by == "block":
        return "outside the blocks" if value is None else f"block {value}"
    if by == "bit":
        formats = dict.fromkeys(other.format for other in part)
        return f"bit {value}" + (f" of {record.format}" if len(formats) > 1 else "")
    return str(value)


def _add(table: FittedTable, name: str, record: Marginal, has_classes: bool, style: str | None = None) -> None:
    cells = [_format_rate(record.rate(key)) for key in ("sdc1", "outside", "nonfinite") if key != "sdc1" or has_classes]
    table.add_row(name, f"{record.faults:,}", f"{record.n:,}", *cells, style=style)


def _bounds(record: Marginal) -> str:
    """ "flip, all: below, one-sided at 95 / 99 %: SDC-1 1.32 / 1.66 %, ..."; nothing of summaries without them."""
    names = {"sdc1": "SDC-1", "outside": "outside tolerance", "nonfinite": "non-finite"}
    bounds = [
        f"{name} {100 * rate.high_95:.2f} / {100 * rate.high_99:.2f} %"
        for measure, name in names.items()
        if (rate := record.rate(measure)) is not None and rate.high_95 is not None and rate.high_99 is not None
    ]
    return f"{record.op}, all: below, one-sided at 95 / 99 %: {', '.join(bounds)}" if bounds else ""


def _format_rate(rate: RateRecord | None) -> str:
    if rate is None:
        return ""
    return f"{100 * rate.rate:6.2f} [{100 * rate.low:.2f}, {100 * rate.high:.2f}]"
