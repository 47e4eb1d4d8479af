"""``testbed subset``: choose some of the recorded images."""

from __future__ import annotations

from pathlib import Path

import click

from testbed.cli.commands.golden.record import folder_argument
from testbed.cli.common import emit, example, json_option
from testbed.cli.options.numbers import LARGEST_SEED, Whole
from testbed.cli.options.types import CountsOption, ImageRange


@click.command(
    epilog=example(
        "testbed subset runs/vit --per-tier 64,64,128,256",
        "testbed subset runs/vit --per-tier 64,64,128,256 --stratified --seed 1",
        "testbed subset runs/vit --range 0:512",
    )
)
@folder_argument
@click.option(
    "--per-tier",
    type=CountsOption(),
    metavar="N,...",
    help="N images of each tier of `testbed tiers`: the first ones in data set order, as published.",
)
@click.option("--stratified", is_flag=True, help="With --per-tier: a random choice with all classes in proportion.")
@click.option("--seed", type=Whole(0, LARGEST_SEED), default=0, show_default=True, help="Of --stratified.")
@click.option("--range", "positions", type=ImageRange(), metavar="A:B", help="The test images A to B - 1.")
@json_option
def subset(
    folder: Path,
    per_tier: tuple[int, ...] | None,
    stratified: bool,
    seed: int,
    positions: tuple[int, int] | None,
    as_json: bool,
) -> None:
    """Choose images of the golden in DIR; write DIR/subset.json and their goldens to DIR/subset.

    The files in DIR/subset are the chosen rows of those in DIR/golden: logits, and inputs and outputs of each recorded
    module, in NumPy's format. `testbed golden verify` then compares these images only.

    Data sets that lie in class folders are sorted by class, so that the first images of a tier are of one class or a
    few; --stratified takes them from all.
    """
    from testbed.analysis.outputs.classes import classes_told
    from testbed.cli.progress import log_to_stderr
    from testbed.golden.subset import record_subset
    from testbed.models.runs import open_model_run

    log_to_stderr()
    chosen = record_subset(folder, per_tier=per_tier, positions=positions, stratified=stratified, seed=seed)

    def text() -> list[str]:
        named = classes_told(chosen.classes, open_model_run(folder).model.config.classes)
        how = ", the first of each tier in data set order" if per_tier and not stratified else ""
        files = [f"  {folder / file}" for file in chosen.files]
        return [f"{named}{how}", f"chosen ({folder}/subset.json); their goldens:", *files]

    emit(chosen, as_json, text)
