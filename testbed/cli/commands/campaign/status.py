"""``testbed campaign status``: how far a campaign is, from another shell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.cli.common import emit, example, json_option

if TYPE_CHECKING:
    from testbed.campaign.results.status import StatusReport


@click.command(epilog=example("testbed campaign status runs/digits", "watch -n 5 testbed campaign status runs/digits"))
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@json_option
def status(folder: Path, as_json: bool) -> None:
    """How far the campaign in DIR is: its stage, faults done, rate, time to go, outcomes so far, widest interval.

    Works while it runs, from any shell that sees the folder, and when it was interrupted or has ended.
    """
    from testbed.campaign.results.status import campaign_status

    report = campaign_status(folder)
    emit(report.to_json(), as_json, lambda: _status_lines(report))


def _status_lines(report: StatusReport) -> list[str]:
    from testbed.api.progress_text import duration, lines

    head = f"{report.name}: {report.state}"
    if report.state == "running":
        head += f", {report.snapshot.stage or 'preparing'}"
        if report.age_s is not None:
            head += f", last heard of {duration(report.age_s)} ago"
    elif report.state == "interrupted":
        last = report.stages[-1] if report.stages else None
        head += f" after stage {last!r}" if last else " before its first stage was done"
        head += "; the command that began it goes on with it"
    return [head, *lines(report.snapshot)]
