"""``testbed campaign show``: the summary of a finished campaign, from its folder alone."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.cli.common import emit, example, json_option


@click.command(
    epilog=example("testbed campaign show runs/digits", "testbed campaign show runs/digits --json > summary.json")
)
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@json_option
def show(folder: Path, as_json: bool) -> None:
    """Print the summary of the finished campaign in DIR, as `campaign run` does.

    Nothing is run: neither the spec nor the model nor the data are needed, and no engine.
    """
    from testbed.campaign.summary import read_summary
    from testbed.cli.tables import summary_tables

    summary = read_summary(folder)
    emit(summary, as_json, lambda: summary_tables(summary, folder))
