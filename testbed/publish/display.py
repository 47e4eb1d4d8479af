"""Rates of runs as text for readers: columns that say the same everywhere go to the caption, rates are in % with interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from testbed.publish.rates import RUN_COLUMNS, RunRates

NAMES = {
    "target": "target",
    "where": "faults in",
    "op": "fault",
    "bit_class": "bit class",
    "sdc1": "SDC-1 %",
    "outside": "outside tolerance %",
    "nonfinite": "non-finite %",
}
_OF_FAULTS = ("target", "where", "op")  # op: a label that has pattern and scope in it where they are unusual
_NONE = {"block": "outside the blocks"}


@dataclass(frozen=True)
class RatesDisplay:
    """Attributes: caption: what holds of every row; headings; numbers: which columns are; rows of cells."""

    caption: str
    headings: tuple[str, ...]
    numbers: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]


def rates_display(rates: RunRates, measures: Sequence[str]) -> RatesDisplay:
    """Lay the rates out."""
    table = rates.table
    varying = [name for name in RUN_COLUMNS[1:] if table[name].nunique() > 1]
    if table.run.nunique() > len(table[varying].drop_duplicates() if varying else [()]):
        varying = ["run", *varying]  # otherwise two runs could not be told from each other
    keys = [*varying, *(name for name in _OF_FAULTS if table[name].nunique() > 1), *rates.by]
    constant = [table[name].iloc[0] for name in RUN_COLUMNS[1:] if name not in varying and len(table)]
    faults = [str(table[name].iloc[0]) for name in _OF_FAULTS if name not in keys and len(table)]
    shown = [measure for measure in measures if table[measure].notna().any()]
    measured = table.dropna(subset=shown, how="all") if shown else table  # an attention module has no top-1 to change
    levels = dict.fromkeys(f"{100 * level:g} %" for level in rates.confidence.values())
    caption = ", ".join(filter(None, map(str, dict.fromkeys([*constant, *faults]))))
    caption = f"{caption}; " if caption else ""
    rows = [
        (
            *(_value(name, record[name]) for name in keys),
            f"{record['faults']:,}",
            f"{record['n']:,}",
            *(percent(record, measure) for measure in shown),
        )
        for record in measured.to_dict("records")
    ]
    headings = (*keys, "faults", "n", *shown)
    return RatesDisplay(
        f"{caption}rates in % with {' or '.join(levels)} intervals",
        tuple(NAMES.get(name, name) for name in headings),
        tuple(name in ("faults", "n", *shown) for name in headings),
        tuple(rows),
    )


def percent(record: dict[Any, Any], measure: str) -> str:
    """ "0.89 [0.76, 1.04]"; empty where there is none."""
    if pd.isna(record[measure]):
        return ""
    rate, low, high = (100 * record[f"{measure}{end}"] for end in ("", "_low", "_high"))
    return f"{rate:.2f} [{low:.2f}, {high:.2f}]"


def _value(name: str, value: Any) -> str:
    return _NONE.get(name, "") if pd.isna(value) else str(value)
