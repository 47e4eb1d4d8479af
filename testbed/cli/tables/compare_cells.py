"""Cells of the tables of two campaigns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from testbed.cli.tables.fitting import FittedTable
from testbed.compare.engine_record import AgreementRecord, DisagreementCause, KappaRecord
from testbed.compare.precision_record import RateDifference, RoleRecord
from testbed.compare.record import ComparedRate, HeadlineRate
from testbed.core.words.text import percent_interval


def new_table(title: str, columns: Iterable[str], right: Iterable[str] = (), whole: Iterable[str] = ()) -> FittedTable:
    """Make a table whose columns are flush left, but for those named."""
    table = FittedTable(title=title)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=name in whole)
    return table


def target_place_cell(record: AgreementRecord | DisagreementCause | RoleRecord) -> str:
    """The target and the place: "model activations"."""
    return f"{record.target} {'activations' if record.where == 'activation' else 'weights'}"


def percent_cell(estimate: ComparedRate | HeadlineRate | None) -> str:
    """A rate in % with its interval; empty where there is none."""
    if estimate is None:
        return ""
    return percent_interval(estimate.rate, estimate.low, estimate.high)


def difference_cell(difference: RateDifference | None) -> str:
    """A difference in points of % with its interval; empty where there is none."""
    if difference is None:
        return ""
    return percent_interval(difference.value, difference.low, difference.high)


def kappa_cell(estimate: KappaRecord) -> str:
    """Cohen's kappa with its interval."""
    if estimate.value is None:
        return "one outcome only"
    return f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"


def number_cell(value: float | None) -> str:
    """A number of three digits; empty where there is none."""
    return "" if value is None else f"{value:.3g}"


def both_cell(a: str | float | None, b: str | float | None) -> str:
    """The values of both sides."""
    return f"{_format_cell(a)} | {_format_cell(b)}"


def _format_cell(value: str | float | None) -> str:
    if value is None:
        return "-"
    if value == -1:
        return "NaN"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def bit_ranges(bits: Sequence[int]) -> str:
    """0 1 2 5 as "0-2 5"."""
    runs: list[list[int]] = []
    for bit in bits:
        if runs and bit == runs[-1][-1] + 1:
            runs[-1].append(bit)
        else:
            runs.append([bit])
    return " ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
