"""``testbed campaign show``: the summary of a finished campaign, from its folder alone."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.cli.common import emit, example, json_option
from testbed.cli.options.types import WordsOption
from testbed.core.errors import UsageError
from testbed.core.words.nearest import unknown


def show_command(words: str) -> click.Command:
    """The command, which has two names: ``testbed show``, and ``testbed campaign show``."""

    @click.command(
        "show",
        epilog=example(
            f"{words} runs/digits",
            f"{words} runs/digits --by site,bit --op flip",
            f"{words} runs/digits --json > summary.json",
        ),
    )
    @click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
    @click.option(
        "--by",
        type=WordsOption("tier", "block", "kind", "site", "bit_class", "bit"),
        default="",
        metavar="A,B,...",
        help="Rates of every fault model by tier, block, kind (of site), site, bit_class or bit. Without it: those of the"
        " first one by tier, block, kind and bit_class.",
    )
    @click.option(
        "--op", "ops", multiple=True, metavar="NAME", help="Only this fault model, as the table names it: flip."
    )
    @json_option
    def show(folder: Path, by: tuple[str, ...], ops: tuple[str, ...], as_json: bool) -> None:
        """Print the summary of the finished campaign in DIR, as `campaign run` does.

        Nothing is run: neither the spec nor the model nor the data are needed, and no engine. --json has every rate.
        """
        from testbed.campaign.summary.summarise import read_summary
        from testbed.cli.tables.rates import Details
        from testbed.cli.tables.summary import summary_tables

        summary = read_summary(folder)
        known = dict.fromkeys(record.op for record in summary.marginals)
        if strange := [op for op in ops if op not in known]:
            raise UsageError(unknown("fault model", strange[0], known))
        emit(summary.to_json(), as_json, lambda: summary_tables(summary, folder, Details(by, ops)))

    return show


show = show_command("testbed campaign show")
top_show = show_command("testbed show")
