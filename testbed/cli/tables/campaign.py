"""A campaign with its protected one, where there is one: planned or finished, as JSON and as tables for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import RenderableType

from testbed.api.running import FinishedCampaign
from testbed.cli.tables.prose import stacked
from testbed.cli.tables.protection import protection_tables
from testbed.cli.tables.summary import plan_tables, summary_tables
from testbed.protect.campaigns.preview import DryRuns


def finished_json(done: FinishedCampaign) -> dict[str, Any]:
    """The summary of the plain campaign; with a [protect] table also the comparison."""
    summary = done.summary.to_json()
    return summary if done.comparison is None else {**summary, "comparison": done.comparison.to_json()}


def finished_tables(done: FinishedCampaign, folder: Path) -> RenderableType:
    """The tables of the plain campaign, and what protection bought."""
    summary = summary_tables(done.summary, folder)
    return summary if done.comparison is None else stacked([summary, "", protection_tables(done.comparison, "kind")])


def dry_run_tables(dry: DryRuns) -> RenderableType:
    """What the campaign would do, and then the protected one."""
    plain, protected = plan_tables(dry.plain), dry.protected
    if protected is None:
        return plain
    both = (
        f"both campaigns: {dry.plain.faults + protected.faults:,} faults, {dry.plain.rows + protected.rows:,} rows, about"
        f" {dry.plain.estimated_seconds + protected.estimated_seconds:.0f} s of engine time here"
    )
    return stacked([plain, "", plan_tables(protected), "", both])
