"""The plan of a campaign as an object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from testbed.core.json_types import json_ready
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


@dataclass(frozen=True, eq=False)
class DryRun:
    """What a campaign would do.

    Attributes:
        record: The whole record.
    """

    record: Any

    def to_json(self) -> dict[str, Any]:
        """What `testbed campaign run --dry-run --json` prints."""
        value: dict[str, Any] = json_ready(self.record)
        return value

    @property
    def faults(self) -> int:
        """How many faults would be run."""
        return int(self.to_json()["faults"])

    @property
    def estimated_seconds(self) -> float:
        """How long that would take on this machine, on one core."""
        return float(self.to_json()["estimated_seconds"])

    @property
    def warnings(self) -> list[str]:
        """What the run would warn of."""
        return list(self.to_json()["warnings"])

    @property
    def sections(self) -> pd.DataFrame:
        """One row per fault section: target, where, strata, population, faults, rows, widths, seconds."""
        return pd.DataFrame(self.to_json()["sections"])

    def _repr_html_(self) -> str:
        values = self.to_json()
        rows = [
            (s["target"], s["where"], ", ".join(s["ops"]), f"{s['strata']:,}", f"{s['faults']:,}", f"{s['rows']:,}")
            for s in values["sections"]
        ]
        headings = ("target", "faults in", "operations", "strata", "faults", "rows")
        return (
            html.heading(f"Dry run of {values['name']}: {values['faults']:,} faults, nothing was run")
            + html.table(headings, rows)
            + "".join(map(html.paragraph, values["warnings"]))
        )


@dataclass(frozen=True, eq=False)
class CampaignStatus:
    """How far a campaign is.

    Attributes:
        record: The whole record.
    """

    record: Any

    def to_json(self) -> dict[str, Any]:
        """What `testbed campaign status --json` prints."""
        value: dict[str, Any] = json_ready(self.record)
        return value

    @property
    def state(self) -> str:
        """ "running", "finished" or "interrupted"."""
        return str(self.to_json()["state"])

    @property
    def stages(self) -> list[str]:
        """The stages that are done."""
        return list(self.to_json()["stages"])

    @property
    def faults_done(self) -> int:
        """How many faults were run."""
        return int(self.to_json()["faults_done"] or 0)

    @property
    def faults(self) -> int:
        """How many faults are planned so far."""
        return int(self.to_json()["faults"] or 0)

    @property
    def outcomes(self) -> dict[str, int]:
        """How often each outcome came out so far."""
        return dict(self.to_json()["outcomes"] or {})

    def _repr_html_(self) -> str:
        values = self.to_json()
        facts: dict[str, object] = {
            "stages done": ", ".join(self.stages),
            "faults": f"{self.faults_done:,} of {self.faults:,}",
        }
        return html.heading(f"Campaign {values['name']}: {self.state}") + html.facts(facts | self.outcomes)


def _format_value(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
