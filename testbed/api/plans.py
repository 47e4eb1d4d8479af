"""The plan of a campaign as an object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from testbed.core.words import html

_SHOWN = 24  # parts in a notebook


@dataclass(frozen=True, eq=False)
class CampaignPlan:
    """What a campaign would sample from, and how many faults a margin asks for.

    Attributes:
        head: Name, number of images, margin, confidence, expected rate, dimensions; bounds of an adaptive campaign.
        records: One record per part, JSON-ready.
        totals: Sums over all parts: strata, population, and the faults, rows and seconds that are drawn.
    """

    head: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    totals: Mapping[str, Any]

    @property
    def parts(self) -> pd.DataFrame:
        """One row per part and fault model: strata, population, Leveugle's sample size, faults drawn."""
        return pd.DataFrame(list(self.records))

    def to_json(self) -> dict[str, Any]:
        """What `testbed campaign plan --json` prints."""
        return {**self.head, "parts": [dict(record) for record in self.records], "totals": dict(self.totals)}

    def _repr_html_(self) -> str:
        columns = list(self.records[0]) if self.records else []
        rows = [
            ["" if record[name] is None else _format_value(record[name]) for name in columns] for record in self.records
        ]
        drawn = self.totals["drawn"]
        more = f"; {len(rows) - _SHOWN:,} more parts" if len(rows) > _SHOWN else ""
        return (
            html.heading(f"Plan of {self.head['name']}: nothing was run")
            + html.table(columns, rows[:_SHOWN])
            + html.paragraph(
                f"{drawn['faults']:,} faults, {drawn['rows']:,} rows on {self.head['images']} images{more}"
            )
        )


def _format_value(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
