"""``testbed subset``: choose some of the recorded images."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.cli.common import emit, example, json_option
from testbed.cli.golden import folder_argument
from testbed.cli.parameters import Counts, ImageRange


@click.command(
    epilog=example("testbed subset runs/vit --per-tier 64,64,128,256", "testbed subset runs/vit --range 0:512")
)
@folder_argument
@click.option("--per-tier", type=Counts(), metavar="N,...", help="The first N images of each tier of `testbed tiers`.")
@click.option("--range", "positions", type=ImageRange(), metavar="A:B", help="The test images A to B - 1.")
@json_option
def subset(folder: Path, per_tier: tuple[int, ...] | None, positions: tuple[int, int] | None, as_json: bool) -> None:
    """Choose images of the golden in DIR; write DIR/subset.json and their goldens to DIR/subset.

    The files in DIR/subset are the chosen rows of those in DIR/golden: logits, and inputs and outputs of each recorded
    module, in NumPy's format. `testbed golden verify` then compares these images only.
    """
    from testbed.golden.subset import record_subset

    content = record_subset(folder, per_tier=per_tier, positions=positions)
    files = "\n".join(f"  {folder / file}" for file in content["files"])
    emit(
        content, as_json, lambda: f"{content['images']:,} images chosen ({folder}/subset.json); their goldens:\n{files}"
    )
