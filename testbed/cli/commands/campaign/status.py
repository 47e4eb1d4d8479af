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


_PARTS = {
    "plain": "the plain campaign",
    "protect": "the model is protected",
    "protected": "the protected campaign",
    "comparison": "the comparison",
}


def _status_lines(report: StatusReport) -> list[str]:
    from testbed.api.progress_text import duration, lines

    protected, head = report.protected, f"{report.name}: {report.state}"
    part = None if protected is None else _PARTS.get(protected.part)
    if part:
        head += f", part {list(_PARTS.values()).index(part) + 1} of {len(_PARTS)}: {part}"
    shown = report
    if protected is not None and protected.part == "protected" and protected.campaign is not None:
        shown = protected.campaign
    if report.state == "running" and (protected is None or protected.part in ("plain", "protected")):
        head += f", {shown.snapshot.stage or 'preparing'}"
        if shown.age_s is not None:
            head += f", last heard of {duration(shown.age_s)} ago"
    elif report.state == "interrupted":
        last = shown.stages[-1] if shown.stages else None
        head += f" after stage {last!r}" if last else " before its first stage was done"
        head += "; the command that began it goes on with it"
    return [head, *lines(shown.snapshot)]
