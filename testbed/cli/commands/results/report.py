"""``testbed report``: the page of a finished campaign, made again from its files."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.cli.common import emit, example, json_option


@click.command(epilog=example("testbed report runs/digits"))
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@json_option
def report(folder: Path, as_json: bool) -> None:
    """Write DIR/report.html, one self-contained page, from the results stored in DIR.

    The path of the page goes to standard output. Nothing is run again.
    """
    from testbed.report.rebuild import rebuild_report

    path = rebuild_report(folder)
    emit({"report": path}, as_json, lambda: str(path))
