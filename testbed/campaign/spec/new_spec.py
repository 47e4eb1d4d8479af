"""A ready-made spec as a file of one's own, to run as it is or to edit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from testbed.campaign.spec.campaign import load_spec, parse_spec
from testbed.campaign.spec.ready_made import ready_made, ready_made_named
from testbed.campaign.spec.schema import SCHEMA_FILE, schema_text
from testbed.core.errors import UsageError
from testbed.core.folder.files import write_bytes
from testbed.core.words.nearest import nearest


@dataclass(frozen=True)
class WrittenSpec:
    """A spec that was written: its file, the ready-made one it is a copy of, and the schema beside it."""

    file: Path
    source: str
    schema: Path | None


@dataclass(frozen=True)
class SpecEntry:
    """A ready-made spec: what it shows, and the model it needs."""

    name: str
    about: str
    model: str
    file: str


def write_ready_made(name: str, source: str | None, file: Path | None, with_schema: bool) -> WrittenSpec:
    """Write a commented spec for a campaign called ``name``.

    source: the ready-made spec to begin with; of that name, or digits, if None. file: NAME.toml, if None. Raises
    UsageError for a name that no campaign may have, a source that there is none of, and a file that is there already.
    """
    if source is None and name not in ready_made() and (near := nearest(name, ready_made())):
        raise UsageError(f"no ready-made spec is called {name!r}: did you mean {near}? Else say --from {near}")
    begun_with = ready_made_named(source or (name if name in ready_made() else "digits"))
    parse_spec(load_spec(begun_with.path).model_dump(mode="json", exclude_none=True) | {"name": name}, f"NAME {name!r}")
    path = file or Path(f"{name}.toml")
    if path.exists():
        raise UsageError(f"{path} is there already; name another file: --to FILE")
    write_bytes(path, begun_with.text_named(name, with_schema).encode())
    schema = path.parent / SCHEMA_FILE if with_schema else None
    if schema is not None:
        write_bytes(schema, schema_text().encode())
    return WrittenSpec(path, begun_with.path.stem, schema)


def ready_made_entries() -> list[SpecEntry]:
    """The ready-made specs, sorted by name."""
    specs = [(ready, load_spec(ready.path).model) for ready in ready_made().values()]
    return [
        SpecEntry(
            ready.path.stem,
            ready.about,
            model.run or model.onnx or f"preset {model.preset}, trained on first use",
            str(ready.path),
        )
        for ready, model in specs
    ]
