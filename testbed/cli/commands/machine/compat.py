"""``testbed compat``: which architectures of which libraries work, shown on each of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.cli.common import emit, example, json_option, say
from testbed.cli.options.numbers import Workers
from testbed.cli.progress import progress_on_stderr

if TYPE_CHECKING:
    from rich.console import RenderableType

    from testbed.compat.architectures.entry import Architecture
    from testbed.compat.record import ArchitectureResult, Matrix

_SIGNS = {True: "yes", False: "no", None: "-"}


@click.command(
    epilog=example(
        "testbed compat --dry-run",
        "testbed compat --family DeiT --family Swin",
        "testbed compat --model timm/vit --exporter dynamo --json",
        "testbed compat --workers 4 --check --to docs/reference/compat.md",
    )
)
@click.option(
    "--family", "families", metavar="NAME", multiple=True, help="Only this family; may be given several times."
)
@click.option(
    "--library",
    "libraries",
    type=click.Choice(["timm", "transformers", "torchvision", "vit-pytorch"]),
    multiple=True,
    help="Only models of this library; may be given several times.",
)
@click.option("--model", "models", metavar="NAME", multiple=True, help="Only this model; may be given several times.")
@click.option(
    "--exporter",
    "exporters",
    type=click.Choice(["dynamo", "torchscript", "optimum"]),
    multiple=True,
    help="Only files that this exporter writes: torch's, its older one, or that with Optimum's names and open axes.",
)
@click.option(
    "--to", metavar="FILE.md", type=click.Path(dir_okay=False, path_type=Path), help="Write the matrix as a page."
)
@click.option(
    "--workers",
    type=Workers(),
    default=0,
    show_default=True,
    metavar="N",
    help="Processes that share the models. 0: this one checks all.",
)
@click.option("--check", is_flag=True, help="Exit with status 3 where a cell is false.")
@click.option("--dry-run", is_flag=True, help="List the models, and build none.")
@json_option
def compat(
    families: Sequence[str],
    libraries: Sequence[str],
    models: Sequence[str],
    exporters: Sequence[str],
    to: Path | None,
    workers: int,
    check: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Build, export and check models of timm, transformers, torchvision and vit-pytorch: a support matrix.

    Each model is small and has random weights; nothing is downloaded. All of them take half an hour or so of a free
    core. A model that fails is a cell of the matrix with its reason, and the others go on.
    """
    from testbed.compat.architectures.catalogue import choose

    entries = choose(families, libraries, models)
    if dry_run:
        emit([_entry(entry) for entry in entries], as_json, lambda: _entries_table(entries))
        return
    from testbed.compat.exporters import EXPORTERS
    from testbed.compat.page import write_page
    from testbed.compat.run import planned, run_matrix
    from testbed.core.errors import GateFailed

    asked = [exporter for exporter in EXPORTERS if exporter in exporters]
    files = planned(entries, asked)
    with progress_on_stderr(len(files), "models") as advance:

        def each(result: ArchitectureResult) -> None:
            say(f"{result.name}, {result.exporter}: {_outcome(result)}, {result.seconds:.0f} s")
            advance(1)

        matrix = run_matrix(files, each, workers=workers)
    if to is not None:
        write_page(matrix, to)
    emit(matrix, as_json, lambda: _matrix_table(matrix))
    if check and not matrix.holds:
        failed = [model for model in matrix.models if model.failed]
        raise GateFailed(f"{len(failed)} of {len(matrix.models)} files have a check that does not hold")


def _outcome(result: ArchitectureResult) -> str:
    if result.failed:
        return f"{', '.join(result.failed)} not ({result.reason})"
    return result.reason or "all holds"


def _entry(entry: Architecture) -> dict[str, object]:
    return {
        "name": entry.name,
        "family": entry.family,
        "library": entry.library,
        "blocks": entry.blocks,
        "image": entry.image,
    }


def _entries_table(entries: Sequence[Architecture]) -> RenderableType:
    from testbed.cli.tables.fitting import FittedTable
    from testbed.cli.tables.prose import stacked

    table = FittedTable("model", "family", title="models of the support matrix")
    for heading in ("blocks", "image"):
        table.add_column(heading, justify="right")
    for entry in entries:
        table.add_row(entry.name, entry.family, str(entry.blocks), str(entry.image))
    return stacked([table, f"{len(entries)} models"])


def _matrix_table(matrix: Matrix) -> RenderableType:
    from testbed.cli.tables.fitting import FittedTable
    from testbed.cli.tables.prose import stacked
    from testbed.compat.page import share
    from testbed.compat.record import CHECKS

    table = FittedTable("model", "family", "exporter", title="support matrix", keys=3)
    for check in CHECKS:
        table.add_column(check.replace("_", "-"), no_wrap=True)
    for model in matrix.models:
        cells = [_SIGNS[model.verdicts[check].holds] for check in CHECKS]
        table.add_row(model.name, model.family, model.exporter, *cells)
    reasons = [f"{model.name}, {model.exporter}: {model.reason}" for model in matrix.models if model.reason]
    versions = ", ".join(f"{library} {number}" for library, number in matrix.versions.items())
    return stacked([table, *reasons, f"{share(matrix)} hold; {versions}"])
