"""Two campaigns side by side, as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType

from testbed.cli.tables.fitting import FittedTable
from testbed.cli.tables.prose import Prose, stacked
from testbed.core.outcome import MEASURE_NAMES

Record = Mapping[str, Any]
_CAUSES = {
    "due": "detected, or no output, in one only",
    "unchanged": "the bit had that value already in one",
    "nonfinite": "NaN or infinity in one only",
    "top1": "another top-1 in one only",
    "tolerance": "the tolerance lies between them",
}
_SIDES = ("A", "B", "A - B")


def compare_tables(compared: Record, rows: int) -> RenderableType:
    """Tables of a comparison. rows: disagreeing rows to show per cause."""
    body = _engines(compared, rows) if compared["mode"] == "engines" else _precisions(compared)
    parts: list[RenderableType] = [
        *_headline(compared),
        *_head(compared),
        *body,
        "",
        Prose(compared["method"], style="dim"),
    ]
    return stacked(parts)


def _headline(compared: Record) -> Iterator[RenderableType]:
    """A line per side and fault model: its precision and engine, the SDC-1 rate, and what that is of the bits held."""
    for side in ("a", "b"):
        engine = compared[side]["engine"]
        for line in compared["headline"][side]:
            kind = "activations" if line["where"] == "activation" else "weights"
            name = f"{side.upper()}  {engine['precision']} on {engine['backend']}"
            yield Prose(
                f"{name}, {kind}, {line['op']}: SDC-1 {_percent(line)} %, n {line['n']:,} ({line['faults']:,} faults);"
                " of"
                f" {line['bits']:,} bits held {line['sdc1_bits']:,.0f} [{line['sdc1_bits_low']:,.0f},"
                f" {line['sdc1_bits_high']:,.0f}]",
                indent=3,
                bold=len(name),
            )
    yield ""


def _head(compared: Record) -> Iterator[RenderableType]:
    for side in ("a", "b"):
        campaign = compared[side]
        engine = campaign["engine"]
        name = f"{side.upper()}  {campaign['folder']}"
        yield Prose(
            f"{name}: {campaign['name']}, seed {campaign['seed']}, {campaign['faults']:,} faults, {campaign['rows']:,}"
            " rows",
            indent=3,
            bold=len(name),
        )
        yield (
            f"   {engine['backend']} {engine['precision']}, ports {engine['ports']}, batch {engine['batch']},"
            f" {engine['threads']} thread(s)"
        )
    pairing = compared["pairing"]
    paired = f"{pairing['faults']:,} faults, {pairing['rows']:,} rows (fault x image) pair"
    if compared["mode"] == "engines":
        yield f"{paired}; rows only in A {pairing['only_a']:,}, only in B {pairing['only_b']:,}"
    else:
        yield (
            f"{pairing['sites']} struck sites in both; only in A {pairing['sites_only_a']}, only in B"
            f" {pairing['sites_only_b']}; {paired} by site, index, image, operation and role"
        )
    yield from (Prose(f"note: {note}", style="yellow") for note in compared["notes"])


# ---- two engines


def _engines(compared: Record, rows: int) -> Iterator[RenderableType]:
    yield from ("", _agreement(compared))
    for record in compared["agreement"]:
        if record["op"] is None or not _has_all(compared, record):
            yield from ("", _matrix(record))
    yield from ("", *_disagreements(compared["disagreements"], rows))


def _agreement(compared: Record) -> FittedTable:
    level = f"{100 * compared['confidence']:g} %"
    table = _new_table(
        f"agreement of the outcomes, with {level} intervals",
        ["", "faults", "rows", "differ", "agreement, %", "kappa", "kappa, all outcomes", "same\nbits"],
        right=("faults", "rows", "differ", "same\nbits"),
        whole=("agreement, %", "kappa", "kappa, all outcomes"),
    )
    named: set[str] = set()
    for record in compared["agreement"]:
        target_place = _target_place(record)
        if target_place not in named:
            table.add_section()
            named.add(target_place)
            name = target_place if record["op"] is None else f"{target_place}, {record['op']}"
        else:
            name = f"  {record['op']}"
        table.add_row(
            name,
            f"{record['faults']:,}",
            f"{record['rows']:,}",
            f"{record['disagreeing_rows']:,}",
            _percent(record["agreement"]),
            _kappa(record["kappa"]),
            _kappa(record["kappa_all"]),
            f"{100 * record['same_golden_word']:.0f} %",
            style="bold" if record["op"] is None else None,
        )
    return table


def _matrix(record: Record) -> FittedTable:
    matrix = record["matrix_all"]
    table = _new_table(f"{_target_place(record)}, rows", ["A \\ B", *matrix["outcomes"]], right=matrix["outcomes"])
    for outcome, counts in zip(matrix["outcomes"], matrix["rows"], strict=True):
        table.add_row(outcome, *(f"{count:,}" for count in counts))
    return table


def _disagreements(disagreements: Record, rows: int) -> Iterator[RenderableType]:
    if not disagreements["rows"]:
        yield "no row disagrees by more than identical against masked"
        return
    table = _new_table(
        f"{disagreements['rows']:,} rows disagree by more than identical against masked",
        ["", "why", "rows", "faults", "furthest from the tolerance", "largest margin"],
        right=("rows", "faults", "furthest from the tolerance", "largest margin"),
    )
    for cause in disagreements["by_cause"]:
        table.add_row(
            _target_place(cause),
            _CAUSES[cause["differ_by"]],
            f"{cause['rows']:,}",
            f"{cause['faults']:,}",
            _number(cause["largest_distance"]),
            _number(cause["largest_margin"]),
        )
    yield table
    for cause in dict.fromkeys(cause["differ_by"] for cause in disagreements["by_cause"]):
        of_cause = [row for row in disagreements["listed"] if row["differ_by"] == cause]
        if rows:
            yield from ("", _rows(_CAUSES[cause], of_cause, rows))


def _rows(title: str, of_cause: Sequence[Record], rows: int) -> FittedTable:
    shown = of_cause[:rows]
    more = f", the first {len(shown)} of {len(of_cause):,} (--rows, --json and --to FILE give more)"
    table = _new_table(
        f"{title}{more if len(shown) < len(of_cause) else ''}",
        ["fault", "image", "outcome", "largest |d|", "from the tolerance", "top-1", "margin"],
    )
    for row in shown:
        bit = "" if row["bit"] is None else f" {row['bit']}"
        table.add_row(
            f"{row['target']} {row['site']}[{row['index']}] {row['op']}{bit}",
            row["image_id"],
            *(
                f"{_format_cell(row[f'{name}_a'])} | {_format_cell(row[f'{name}_b'])}"
                for name in ("outcome", "max_abs_diff", "distance")
            ),
            f"{_format_cell(row['top1_faulty_a'])} | {_format_cell(row['top1_faulty_b'])}",
            f"{_format_cell(row['margin_faulty_a'])} | {_format_cell(row['margin_faulty_b'])}",
        )
    return table


def _has_all(compared: Record, record: Record) -> bool:
    return any(other["op"] is None and _target_place(other) == _target_place(record) for other in compared["agreement"])


# ---- two precisions


def _precisions(compared: Record) -> Iterator[RenderableType]:
    level = f"{100 * compared['confidence']:g} %"
    first_op: dict[str, str] = {}
    kinds: dict[tuple[str, str, str], list[Record]] = {}
    for record in compared["roles"]:
        target_place = _target_place(record)
        if first_op.setdefault(target_place, record["op"]) == record["op"] or record["role"] in ("all", "word"):
            kinds.setdefault((target_place, record["format_a"], record["format_b"]), []).append(record)
    for (target_place, a, b), records in kinds.items():
        title = f"{target_place}, {a} in A and {b} in B: rates in %, with {level} intervals"
        yield from ("", _roles(title, records))
        if any(record["paired"] for record in records):
            yield from ("", _paired(f"{target_place}, {a} in A and {b} in B: the faults that pair", records))
    yield Prose("the roles of every operation are in --json and --to FILE", style="dim")


def _roles(title: str, records: Sequence[Record]) -> FittedTable:
    table = _new_table(title, ["", "", *_SIDES, "faults A", "faults B"], ("faults A", "faults B"), _SIDES)
    for record in records:
        faults = [_faults(record[side]) for side in ("a", "b")]
        _add_measures(table, f"{record['op']}, {record['role']}", record["rates"], faults)
    return table


def _paired(title: str, records: Sequence[Record]) -> FittedTable:
    table = _new_table(title, ["", "", *_SIDES, "faults", "bits in A", "bits in B"], ("faults",), _SIDES)
    for record in records:
        paired = record["paired"]
        if paired is not None:
            bits = (_ranges(paired[side]) for side in ("bits_a", "bits_b"))
            counts = [f"{paired['faults']:,}", *bits]
            _add_measures(table, f"{record['op']}, {record['role']}", paired["rates"], counts)
    return table


def _add_measures(table: FittedTable, name: str, rates: Record, counts: Sequence[str]) -> None:
    """A row per measure; only the first one repeats what all have in common."""
    table.add_section()
    for measure, title in MEASURE_NAMES.items():
        if rates[measure] is not None:
            sides = (_percent(rates[measure][side]) for side in ("a", "b", "difference"))
            table.add_row(name, title, *sides, *counts)
            name, counts = "", ()


def _faults(counts: Record | None) -> str:
    return "" if counts is None else f"{counts['faults']:,}"


def _ranges(bits: Sequence[int]) -> str:
    """0 1 2 5 as "0-2 5"."""
    runs: list[list[int]] = []
    for bit in bits:
        if runs and bit == runs[-1][-1] + 1:
            runs[-1].append(bit)
        else:
            runs.append([bit])
    return " ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


# ---- cells


def _new_table(title: str, columns: Iterable[str], right: Iterable[str] = (), whole: Iterable[str] = ()) -> FittedTable:
    table = FittedTable(title=title)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=name in whole)
    return table


def _target_place(record: Record) -> str:
    return f"{record['target']} {'activations' if record['where'] == 'activation' else 'weights'}"


def _percent(estimate: Record | None) -> str:
    if estimate is None:
        return ""
    middle = estimate["rate"] if "rate" in estimate else estimate["value"]
    return f"{100 * middle:.2f} [{100 * estimate['low']:.2f}, {100 * estimate['high']:.2f}]"


def _kappa(estimate: Record) -> str:
    if estimate["value"] is None:
        return "one outcome only"
    return f"{estimate['value']:.4f} [{estimate['low']:.4f}, {estimate['high']:.4f}]"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _format_cell(value: Any) -> str:
    if value is None:
        return "-"
    if value == -1:
        return "NaN"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
