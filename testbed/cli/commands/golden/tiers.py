"""``testbed tiers``: sort the recorded images by confidence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.cli.commands.golden.record import folder_argument
from testbed.cli.common import emit, example, json_option
from testbed.cli.options.numbers import Whole

if TYPE_CHECKING:
    from testbed.golden.tiers import RecordedTiers


@click.command(epilog=example("testbed tiers runs/vit --tiers 4", "testbed tiers runs/vit --edges .5,.9,.99,1 --json"))
@folder_argument
@click.option("--tiers", "count", type=Whole(1, 100), metavar="4|5", help="Equal tiers; 4 by default.")
@click.option("--edges", metavar="E,...,1", help="Upper edges of one's own tiers, ascending to 1.")
@json_option
def tiers(folder: Path, count: int | None, edges: str | None, as_json: bool) -> None:
    """Sort the correctly classified images of the golden in DIR into confidence tiers; write DIR/tiers.json.

    Confidence is the largest softmax probability less the second largest. A tier holds its upper edge, not its lower.
    A campaign's folder is only read.
    """
    from testbed.golden.tiers import edges_of, record_tiers

    recorded = record_tiers(folder, edges_of(count, edges))
    emit(recorded, as_json, lambda: _tier_lines(recorded))


def _tier_lines(recorded: RecordedTiers) -> list[str]:
    from testbed.analysis.outputs.confidence import interval_name

    lines = [f"{recorded.correct:,} images correct, {recorded.incorrect:,} incorrect; of the correct ones"]
    lines += [f"  confidence {interval_name(tier.low, tier.high)}: {len(tier.images):,}" for tier in recorded.tiers]
    return lines
