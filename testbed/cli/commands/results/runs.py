"""``testbed runs``: what run folders lie in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.cli.common import emit, example, json_option
from testbed.core.words.text import percent_interval

if TYPE_CHECKING:
    from rich.console import RenderableType

    from testbed.publish.listing import RunEntry


@click.command(epilog=example("testbed runs", "testbed runs /data/runs --json"))
@click.argument("folder", metavar="[DIR]", default="runs", type=click.Path(file_okay=False, path_type=Path))
@json_option
def runs(folder: Path, as_json: bool) -> None:
    """List the run folders in DIR (runs unless said), and those below it: model, engine, stage, faults, SDC-1, date.

    SDC-1 is that of a campaign's first fault model of the whole model, with its interval. Folders that cannot be read are
    listed with the reason.
    """
    from testbed.publish.listing import list_run_folders

    entries = list_run_folders(folder)
    emit({"runs": entries}, as_json, lambda: _runs_table(folder, entries))


def _runs_table(folder: Path, entries: Sequence[RunEntry]) -> RenderableType:
    from testbed.cli.tables.fitting import FittedTable
    from testbed.cli.tables.prose import stacked

    if not entries:
        return stacked([f"no run folders in {folder}"])
    table = FittedTable(title=f"{len(entries)} run folder{'s' if len(entries) > 1 else ''} in {folder}")
    rated = any(entry.rate is not None for entry in entries)
    for name in ("run", "kind", "name", "model", "engine", "stage", "faults", *(["SDC-1 %"] if rated else []), "begun"):
        table.add_column(name, justify="right" if name == "faults" else "left", no_wrap=name in ("SDC-1 %", "begun"))
    for entry in entries:
        engine = " ".join(filter(None, (entry.engine, entry.precision)))
        state = entry.state if entry.state != "interrupted" else f"interrupted after {entry.stage or 'nothing'}"
        rate = (
            ""
            if entry.rate is None or entry.low is None or entry.high is None
            else percent_interval(entry.rate, entry.low, entry.high)
        )
        faults = "" if entry.faults is None else f"{entry.faults:,}"
        begun = (entry.created or "")[:16].replace("T", " ")
        table.add_row(
            entry.run,
            entry.kind,
            entry.name,
            entry.model or "",
            engine,
            state,
            faults,
            *([rate] if rated else []),
            begun,
        )
    damaged = [f"{entry.run}: {entry.problem}" for entry in entries if entry.problem]
    return stacked([table, *damaged])
