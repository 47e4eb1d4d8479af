"""Two campaigns side by side, as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType

from testbed.cli.tables.compare_cells import (
    bit_ranges,
    both_cell,
    difference_cell,
    kappa_cell,
    new_table,
    number_cell,
    percent_cell,
    target_place_cell,
)
from testbed.cli.tables.fitting import FittedTable
from testbed.cli.tables.prose import Prose, stacked
from testbed.compare.campaigns import Comparison
from testbed.compare.engine_record import (
    AgreementRecord,
    DifferBy,
    Disagreement,
    Disagreements,
    EngineComparison,
)
from testbed.compare.precision_record import (
    ComparedMeasures,
    PrecisionComparison,
    RoleRecord,
    SampleSize,
)
from testbed.core.outcome import MEASURE_NAMES

_CAUSES: dict[DifferBy, str] = {
    "due": "detected, or no output, in one only",
    "detected": "an alarm of the engine's own checks in one only",
    "unchanged": "the bit had that value already in one",
    "nonfinite": "NaN or infinity in one only",
    "top1": "another top-1 in one only",
    "tolerance": "the tolerance lies between them",
}
_SIDES = ("A", "B", "A - B")


def compare_tables(compared: Comparison, rows: int) -> RenderableType:
    """Tables of a comparison. rows: disagreeing rows to show per cause."""
    body = _engines(compared, rows) if isinstance(compared, EngineComparison) else _precisions(compared)
    parts: list[RenderableType] = [
        *_headline(compared),
        *_head(compared),
        *body,
        "",
        Prose(compared.method, style="dim"),
    ]
    return stacked(parts)


def _headline(compared: Comparison) -> Iterator[RenderableType]:
    """A line per side and fault model: its precision and engine, the SDC-1 rate, and what that is of the bits held."""
    sides = (("A", compared.a, compared.headline.a), ("B", compared.b, compared.headline.b))
    for side, campaign, lines in sides:
        for line in lines:
            kind = "activations" if line.where == "activation" else "weights"
            name = f"{side}  {campaign.engine.precision} on {campaign.engine.backend}"
            yield Prose(
                f"{name}, {kind}, {line.op}: SDC-1 {percent_cell(line)} %, n {line.n:,} ({line.faults:,} faults); of"
                f" {line.bits:,} bits held {line.sdc1_bits:,.0f} [{line.sdc1_bits_low:,.0f},"
                f" {line.sdc1_bits_high:,.0f}]",
                indent=3,
                bold=len(name),
            )
    yield ""


def _head(compared: Comparison) -> Iterator[RenderableType]:
    for side, campaign in (("A", compared.a), ("B", compared.b)):
        engine = campaign.engine
        name = f"{side}  {campaign.folder}"
        yield Prose(
            f"{name}: {campaign.name}, seed {campaign.seed}, {campaign.faults:,} faults, {campaign.rows:,} rows",
            indent=3,
            bold=len(name),
        )
        yield (
            f"   {engine.backend} {engine.precision}, ports {engine.ports}, batch {engine.batch},"
            f" {engine.threads} thread(s)"
        )
    paired = f"{compared.pairing.faults:,} faults, {compared.pairing.rows:,} rows (fault x image) pair"
    if isinstance(compared, EngineComparison):
        yield f"{paired}; rows only in A {compared.pairing.only_a:,}, only in B {compared.pairing.only_b:,}"
    else:
        yield (
            f"{compared.pairing.sites} struck sites in both; only in A {compared.pairing.sites_only_a}, only in B"
            f" {compared.pairing.sites_only_b}; {paired} by site, index, image, operation and role"
        )
    yield from (Prose(f"note: {note}", style="yellow") for note in compared.notes)


# ---- two engines


def _engines(compared: EngineComparison, rows: int) -> Iterator[RenderableType]:
    yield from ("", _agreement(compared))
    for record in compared.agreement:
        if record.op is None or not _has_all(compared, record):
            yield from ("", _matrix(record))
    yield from ("", *_disagreements(compared.disagreements, rows))


def _agreement(compared: EngineComparison) -> FittedTable:
    level = f"{100 * compared.confidence:g} %"
    table = new_table(
        f"agreement of the outcomes, with {level} intervals",
        ["", "faults", "rows", "differ", "agreement, %", "kappa", "kappa, all outcomes", "same\nbits"],
        right=("faults", "rows", "differ", "same\nbits"),
        whole=("agreement, %", "kappa", "kappa, all outcomes"),
    )
    named: set[str] = set()
    for record in compared.agreement:
        target_place = target_place_cell(record)
        if target_place not in named:
            table.add_section()
            named.add(target_place)
            name = target_place if record.op is None else f"{target_place}, {record.op}"
        else:
            name = f"  {record.op}"
        table.add_row(
            name,
            f"{record.faults:,}",
            f"{record.rows:,}",
            f"{record.disagreeing_rows:,}",
            percent_cell(record.agreement),
            kappa_cell(record.kappa),
            kappa_cell(record.kappa_all),
            f"{100 * record.same_golden_word:.0f} %",
            style="bold" if record.op is None else None,
        )
    return table


def _matrix(record: AgreementRecord) -> FittedTable:
    matrix = record.matrix_all
    table = new_table(f"{target_place_cell(record)}, rows", ["A \\ B", *matrix.outcomes], right=matrix.outcomes)
    for outcome, counts in zip(matrix.outcomes, matrix.rows, strict=True):
        table.add_row(outcome, *(f"{count:,}" for count in counts))
    return table


def _disagreements(disagreements: Disagreements, rows: int) -> Iterator[RenderableType]:
    if not disagreements.rows:
        yield "no row disagrees by more than identical against masked"
        return
    table = new_table(
        f"{disagreements.rows:,} rows disagree by more than identical against masked",
        ["", "why", "rows", "faults", "furthest from the tolerance", "largest margin"],
        right=("rows", "faults", "furthest from the tolerance", "largest margin"),
    )
    for cause in disagreements.by_cause:
        table.add_row(
            target_place_cell(cause),
            _CAUSES[cause.differ_by],
            f"{cause.rows:,}",
            f"{cause.faults:,}",
            number_cell(cause.largest_distance),
            number_cell(cause.largest_margin),
        )
    yield table
    for kind in dict.fromkeys(cause.differ_by for cause in disagreements.by_cause):
        of_kind = [row for row in disagreements.listed if row.differ_by == kind]
        if rows:
            yield from ("", _rows(_CAUSES[kind], of_kind, rows))


def _rows(title: str, of_cause: Sequence[Disagreement], rows: int) -> FittedTable:
    shown = of_cause[:rows]
    more = f", the first {len(shown)} of {len(of_cause):,} (--rows, --json and --to FILE give more)"
    table = new_table(
        f"{title}{more if len(shown) < len(of_cause) else ''}",
        ["fault", "image", "outcome", "largest |d|", "from the tolerance", "top-1", "margin"],
    )
    for row in shown:
        bit = "" if row.bit is None else f" {row.bit}"
        table.add_row(
            f"{row.target} {row.site}[{row.index}] {row.op}{bit}",
            row.image_id,
            both_cell(row.outcome_a, row.outcome_b),
            both_cell(row.max_abs_diff_a, row.max_abs_diff_b),
            both_cell(row.distance_a, row.distance_b),
            both_cell(row.top1_faulty_a, row.top1_faulty_b),
            both_cell(row.margin_faulty_a, row.margin_faulty_b),
        )
    return table


def _has_all(compared: EngineComparison, record: AgreementRecord) -> bool:
    return any(
        other.op is None and target_place_cell(other) == target_place_cell(record) for other in compared.agreement
    )


# ---- two precisions


def _precisions(compared: PrecisionComparison) -> Iterator[RenderableType]:
    level = f"{100 * compared.confidence:g} %"
    first_op: dict[str, str] = {}
    kinds: dict[tuple[str, str, str], list[RoleRecord]] = {}
    for record in compared.roles:
        target_place = target_place_cell(record)
        if first_op.setdefault(target_place, record.op) == record.op or record.role in ("all", "word"):
            kinds.setdefault((target_place, record.format_a, record.format_b), []).append(record)
    for (target_place, a, b), records in kinds.items():
        title = f"{target_place}, {a} in A and {b} in B: rates in %, with {level} intervals"
        yield from ("", _roles(title, records))
        if any(record.paired for record in records):
            yield from ("", _paired(f"{target_place}, {a} in A and {b} in B: the faults that pair", records))
    yield Prose("the roles of every operation are in --json and --to FILE", style="dim")


def _roles(title: str, records: Sequence[RoleRecord]) -> FittedTable:
    table = new_table(title, ["", "", *_SIDES, "faults A", "faults B"], ("faults A", "faults B"), _SIDES)
    for record in records:
        faults = [_faults(record.a), _faults(record.b)]
        _add_measures(table, f"{record.op}, {record.role}", record.rates, faults)
    return table


def _paired(title: str, records: Sequence[RoleRecord]) -> FittedTable:
    table = new_table(title, ["", "", *_SIDES, "faults", "bits in A", "bits in B"], ("faults",), _SIDES)
    for record in records:
        paired = record.paired
        if paired is not None:
            counts = [f"{paired.faults:,}", bit_ranges(paired.bits_a), bit_ranges(paired.bits_b)]
            _add_measures(table, f"{record.op}, {record.role}", paired.rates, counts)
    return table


def _add_measures(table: FittedTable, name: str, rates: ComparedMeasures, counts: Sequence[str]) -> None:
    """A row per measure; only the first one repeats what all have in common."""
    table.add_section()
    for measure, sides in rates.by_measure.items():
        if sides is not None:
            cells = percent_cell(sides.a), percent_cell(sides.b), difference_cell(sides.difference)
            table.add_row(name, MEASURE_NAMES[measure], *cells, *counts)
            name, counts = "", ()


def _faults(size: SampleSize | None) -> str:
    return "" if size is None else f"{size.faults:,}"
