"""``testbed campaign new``, ``list`` and ``schema``: ready-made specs to begin with, and what a spec may hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.cli.common import emit, emit_document, example, json_option

if TYPE_CHECKING:
    from testbed.campaign.spec.new_spec import SpecEntry
    from testbed.cli.tables.fitting import FittedTable


@click.command(
    epilog=example(
        "testbed campaign new digits",
        "testbed campaign new my-model --from cifar10 --schema",
        "testbed campaign new my-model --from digits-adaptive --to specs/my-model.toml",
    )
)
@click.argument("name")
@click.option("--from", "source", metavar="SPEC", help="The ready-made spec to begin with; NAME, or digits.")
@click.option(
    "--to", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="The file to write; NAME.toml."
)
@click.option(
    "--schema",
    "with_schema",
    is_flag=True,
    help="Also write testbed.schema.json beside it, with which editors complete and check the spec.",
)
@json_option
def new(name: str, source: str | None, to: Path | None, with_schema: bool, as_json: bool) -> None:
    """Write a commented spec for a campaign called NAME, to run as it is or to edit.

    No spec is overwritten. `testbed campaign list` shows what there is to begin with.
    """
    from testbed.campaign.spec.new_spec import write_ready_made

    made = write_ready_made(name, source, to, with_schema)
    written = {"file": str(made.file), "from": made.source, "run": f"testbed campaign run {made.file}"}
    if made.schema is not None:
        written["schema"] = str(made.schema)
    beside = "" if made.schema is None else f", and {made.schema}"
    emit(
        written,
        as_json,
        lambda: f"wrote {made.file}, a copy of {made.source}{beside}; run it with: {written['run']}",
    )


@click.command(
    epilog=example("testbed campaign schema", "testbed campaign schema > testbed.schema.json"),
)
def schema() -> None:
    """Print the JSON schema of a spec, with which editors complete and check TOML.

    An editor with Taplo or Even Better TOML reads it where the spec's first line is "#:schema ./testbed.schema.json";
    `testbed campaign new NAME --schema` writes both.
    """
    from testbed.campaign.spec.schema import schema_text

    emit_document(schema_text())


@click.command("list", epilog=example("testbed campaign list", "testbed campaign list --json"))
@json_option
def list_(as_json: bool) -> None:
    """List the ready-made specs: what each shows, and the model it needs."""
    from testbed.campaign.spec.new_spec import ready_made_entries

    entries = ready_made_entries()
    emit({"specs": entries}, as_json, lambda: _specs_table(entries))


def _specs_table(entries: list[SpecEntry]) -> FittedTable:
    from testbed.cli.tables.fitting import FittedTable

    table = FittedTable("name", "what it shows", "model", boxed=False)
    for entry in entries:
        table.add_row(entry.name, entry.about, entry.model)
    return table
