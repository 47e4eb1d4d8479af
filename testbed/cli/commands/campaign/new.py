"""``testbed campaign new``, ``list`` and ``schema``: ready-made specs to begin with, and what a spec may hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.cli.common import emit, emit_document, example, json_option

if TYPE_CHECKING:
    from testbed.campaign.spec.ready_made import ReadyMade
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
    from testbed.campaign.spec.campaign import load_spec, parse_spec
    from testbed.campaign.spec.ready_made import ready_made, ready_made_named
    from testbed.core.errors import UsageError
    from testbed.core.folder.files import write_bytes
    from testbed.core.words.nearest import nearest

    if source is None and name not in ready_made() and (near := nearest(name, ready_made())):
        raise UsageError(f"no ready-made spec is called {name!r}: did you mean {near}? Else say --from {near}")
    begun_with = ready_made_named(source or (name if name in ready_made() else "digits"))
    parse_spec(load_spec(begun_with.path).model_dump(mode="json", exclude_none=True) | {"name": name}, f"NAME {name!r}")
    file = to or Path(f"{name}.toml")
    if file.exists():
        raise UsageError(f"{file} is there already; name another file: --to FILE")
    write_bytes(file, begun_with.text_named(name, with_schema).encode())
    written = {"file": str(file), "from": begun_with.path.stem, "run": f"testbed campaign run {file}"}
    if with_schema:
        from testbed.campaign.spec.schema import SCHEMA_FILE, schema_text

        write_bytes(file.parent / SCHEMA_FILE, schema_text().encode())
        written["schema"] = str(file.parent / SCHEMA_FILE)
    beside = f", and {written['schema']}" if with_schema else ""
    emit(
        written,
        as_json,
        lambda: f"wrote {file}, a copy of {begun_with.path.stem}{beside}; run it with: {written['run']}",
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
    from testbed.campaign.spec.campaign import load_spec
    from testbed.campaign.spec.ready_made import ready_made

    specs = {name: (ready, load_spec(ready.path).model) for name, ready in ready_made().items()}
    rows = [(ready, model.run or f"preset {model.preset}, trained on first use") for ready, model in specs.values()]
    known = [
        {"name": ready.path.stem, "about": ready.about, "model": model, "file": str(ready.path)}
        for ready, model in rows
    ]
    emit({"specs": known}, as_json, lambda: _specs_table(rows))


def _specs_table(rows: list[tuple[ReadyMade, str]]) -> FittedTable:
    from testbed.cli.tables.fitting import FittedTable

    table = FittedTable("name", "what it shows", "model", boxed=False)
    for ready, model in rows:
        table.add_row(ready.path.stem, ready.about, model)
    return table
