"""The plan of a campaign as an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from testbed.campaign.preview.records import DryRunReport, PartPreview, PreviewHead, PreviewTotals
from testbed.campaign.results.status import StatusReport
from testbed.core.json_types import json_ready
from testbed.core.words import html

_SHOWN = 24  # parts in a notebook


@dataclass(frozen=True, eq=False)
class CampaignPlan:
    """What a campaign would sample from, and how many faults a margin asks for.

    Attributes:
        head: Name, number of images, margin, confidence, expected rate, dimensions; bounds of an adaptive campaign.
        records: One record per part.
        totals: Sums over all parts: strata, population, and the faults, rows and seconds that are drawn.
        protected: Those of the campaign of the protected model, with a `[protect]` table.
    """

    head: PreviewHead
    records: Sequence[PartPreview]
    totals: PreviewTotals
    protected: PreviewTotals | None = None

    @property
    def parts(self) -> pd.DataFrame:
        """One row per part and fault model: strata, population, Leveugle's sample size, faults drawn."""
        return pd.DataFrame([record.to_json() for record in self.records])

    def to_json(self) -> dict[str, Any]:
        """What `testbed campaign plan --json` prints."""
        return {
            **self.head.to_json(),
            "parts": [record.to_json() for record in self.records],
            "totals": self.totals.to_json(),
            **({} if self.protected is None else {"protected": self.protected.to_json()}),
        }

    def _repr_html_(self) -> str:
        records = [record.to_json() for record in self.records]
        columns = list(records[0]) if records else []
        rows = [["" if record[name] is None else _format_value(record[name]) for name in columns] for record in records]
        drawn = self.totals.drawn
        more = f"; {len(rows) - _SHOWN:,} more parts" if len(rows) > _SHOWN else ""
        return (
            html.heading(f"Plan of {self.head.name}: nothing was run")
            + html.table(columns, rows[:_SHOWN])
            + html.paragraph(f"{drawn.faults:,} faults, {drawn.rows:,} rows on {self.head.images} images{more}")
        )


@dataclass(frozen=True, eq=False)
class DryRun:
    """What a campaign would do.

    Attributes:
        record: The whole record.
        protected: That of the campaign of the protected model, with a `[protect]` table.
    """

    record: DryRunReport
    protected: DryRunReport | None = None

    def to_json(self) -> dict[str, Any]:
        """What `testbed campaign run --dry-run --json` prints."""
        protected = {} if self.protected is None else {"protected": self.protected.to_json()}
        value: dict[str, Any] = json_ready({**self.record.to_json(), **protected})
        return value

    @property
    def faults(self) -> int:
        """How many faults would be run."""
        return self.record.faults

    @property
    def estimated_seconds(self) -> float:
        """How long that would take on this machine, on one core."""
        return self.record.estimated_seconds

    @property
    def warnings(self) -> list[str]:
        """What the run would warn of."""
        return self.record.warnings

    @property
    def sections(self) -> pd.DataFrame:
        """One row per fault section: target, where, strata, population, faults, rows, widths, seconds."""
        return pd.DataFrame(self.to_json()["sections"])

    def _repr_html_(self) -> str:
        dry = self.record
        rows = [
            (own.target, own.where, ", ".join(own.ops), f"{own.strata:,}", f"{own.faults:,}", f"{own.rows:,}")
            for own in dry.sections
        ]
        headings = ("target", "faults in", "operations", "strata", "faults", "rows")
        return (
            html.heading(f"Dry run of {dry.name}: {dry.faults:,} faults, nothing was run")
            + html.table(headings, rows)
            + "".join(map(html.paragraph, dry.warnings))
        )


@dataclass(frozen=True, eq=False)
class CampaignStatus:
    """How far a campaign is.

    Attributes:
        record: The whole record.
    """

    record: StatusReport

    def to_json(self) -> dict[str, Any]:
        """What `testbed campaign status --json` prints."""
        value: dict[str, Any] = json_ready(self.record.to_json())
        return value

    @property
    def state(self) -> str:
        """ "running", "finished" or "interrupted"."""
        return self.record.state

    @property
    def part(self) -> str | None:
        """The part it is in, with a `[protect]` table: "plain", "protect", "protected" (its campaign), "comparison" or "done";
        else None."""
        return None if self.record.protected is None else self.record.protected.part

    @property
    def stages(self) -> list[str]:
        """The stages that are done."""
        return list(self.record.stages)

    @property
    def faults_done(self) -> int:
        """How many faults were run."""
        return self.record.snapshot.faults_done or 0

    @property
    def faults(self) -> int:
        """How many faults are planned so far."""
        return self.record.snapshot.faults or 0

    @property
    def outcomes(self) -> dict[str, int]:
        """How often each outcome came out so far."""
        return dict(self.record.snapshot.outcomes)

    def _repr_html_(self) -> str:
        facts: dict[str, object] = {
            "stages done": ", ".join(self.stages),
            "faults": f"{self.faults_done:,} of {self.faults:,}",
        }
        return html.heading(f"Campaign {self.record.name}: {self.state}") + html.facts(facts | self.outcomes)


def _format_value(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
