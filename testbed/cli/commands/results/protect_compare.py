"""``testbed protect compare``: what protection bought, from two finished campaigns."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.cli.common import emit, example, json_option, say
from testbed.core.folder.places import PROTECTED_CAMPAIGN


@click.command(
    name="compare",
    epilog=example(
        "testbed protect compare runs/digits runs/digits-protected",
        "testbed protect compare runs/digits runs/digits-protected --by bit_class --to runs/bought",
        "testbed protect compare runs/digits runs/digits-protected --json > bought.json",
        "testbed protect compare runs/with-a-protect-table --by tier",
    ),
)
@click.argument("plain", metavar="PLAIN", type=click.Path(file_okay=False, path_type=Path))
@click.argument("protected", metavar="[PROTECTED]", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--by",
    type=click.Choice(["kind", "bit_class", "tier"]),
    default="kind",
    show_default=True,
    help="Groups in the printed tables; --json and --to have all.",
)
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write all of it: JSON, tables as CSV, figures as SVG.",
)
@json_option
def compare_protected(plain: Path, protected: Path | None, by: str, to: Path | None, as_json: bool) -> None:
    """Say what protection bought: a finished campaign of a plain model against one of the same model, protected.

    PROTECTED is the campaign that the spec's [protect] table asked for, in PLAIN, unless it is named.
    The same fault of both is paired by its elements, masks and image, however it was drawn. Told, with intervals: SDC-1 and
    outputs outside the tolerance before and after, and the share removed; how many of these faults the checks detect at
    least; what became of outputs that were not finite; alarms that were not needed; SDC-1 that protection itself makes;
    and what faults in the checks do.
    """
    from testbed.protect.paired.compare import compare_protected as paired

    compared = paired(plain, protected or plain / PROTECTED_CAMPAIGN)
    if to:
        from testbed.publish.protection import write_comparison

        for path in write_comparison(compared, to):
            say(f"written: {path}")

    from testbed.cli.tables.protection import protection_tables

    emit(compared.to_json(), as_json, lambda: protection_tables(compared, by))
