"""What a manifest must look like, and the checksums by which it is known to be as it was written.

The checksums are plain content hashes kept in the manifest itself: they find damage and hand edits, and are no signature
against somebody who sets out to deceive. There is one for the head (everything but the stages) and one per stage, so
that a damaged stage can be named and made again while the others stand. Manifests of versions before have none, and are
held to the form alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field, JsonValue, ValidationError

from testbed.core.errors import StaleArtefact
from testbed.core.folder.files import sha256_json
from testbed.core.folder.forms import Form, first_wrong
from testbed.core.folder.parsing import json_value
from testbed.core.schema import READABLE_VERSIONS

MANIFEST = "manifest.json"
CAMPAIGN = "campaign"  # the kind whose stages are made again with --redo
TRAINED = "train"  # the one stage of other kinds that is, too
FORMAT = 2  # 1, which was not written down: without checksums
_CHECKSUMS = "checksums"
_OTHER = "its checksum is of another content"
_COMMAND = r"^testbed( [a-z-]+)+$"
_MAX_SECONDS = 1e10  # three centuries

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _inside(file: str) -> str:
    parts = PurePosixPath(file).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise ValueError("it names a file outside the folder")
    return file


Relative = Annotated[str, AfterValidator(_inside)]


class ManifestForm(Form):
    """What a manifest says, without its checksums. identity: hash of ``spec``; stages: by name, each a `StageRecord`."""

    kind: Annotated[str, Field(min_length=1)]
    name: str
    identity: Sha256
    schema_version: int
    argv: list[str]
    created: str
    git_revision: str | None
    host: dict[str, str | int | None]
    versions: dict[str, str]
    spec: JsonValue = None
    stages: dict[str, JsonValue]


class StageRecord(Form):
    """What a manifest says of one stage. outputs: file -> SHA-256; facts: what the stage reported; command: the one that a
    person gives to have it made, where it has one of its own."""

    inputs: dict[str, JsonValue]
    outputs: dict[Relative, Sha256]
    facts: dict[str, JsonValue]
    seconds: Annotated[float, Field(ge=0, le=_MAX_SECONDS)] = 0.0
    command: Annotated[str, Field(pattern=_COMMAND)] | None = None


def checksummed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with the checksums of what it says now, in place of any it had."""
    content = {**manifest, "format": FORMAT}
    content.pop(_CHECKSUMS, None)
    stages = {name: _of_stage(name, record) for name, record in content["stages"].items()}
    return {**content, _CHECKSUMS: {"head": _of_head(content), "stages": stages}}


class Damage(NamedTuple):
    """What is wrong with a stage. wrong: in a few words; command: the one that makes the stage, as far as that can
    still be read."""

    wrong: str
    command: str | None


def read_manifest(content: bytes, path: Path) -> tuple[dict[str, Any], dict[str, Damage]]:
    """The manifest without its damaged stages, and those, by name, in the order they were done.

    path: the file, for messages. Raises StaleArtefact where the rest is damaged, or of a version that is not read.
    """
    try:
        manifest = json_value(content)
    except ValueError as error:
        raise StaleArtefact(f"{path} is damaged ({error}); start again in another folder") from error
    if not isinstance(manifest, dict) or not _is_readable(manifest.get("schema_version")):
        readable = " or ".join(map(str, READABLE_VERSIONS))
        raise StaleArtefact(f"{path} is not a manifest of schema version {readable}; use another folder")
    sums = _checksums(manifest)
    wrong = _misformed(ManifestForm, manifest)
    if wrong is None and manifest["identity"] != sha256_json(manifest.get("spec")):
        raise StaleArtefact(f"the spec in {path} was edited; start again in another folder")
    if wrong := wrong or _head_edited(manifest, sums):
        raise StaleArtefact(f"{path} was edited or damaged ({wrong}); start again in another folder")
    damaged = _damaged_stages(manifest["stages"], sums)
    return manifest | {"stages": {n: r for n, r in manifest["stages"].items() if n not in damaged}}, damaged


def _is_readable(version: Any) -> bool:
    return type(version) is int and version in READABLE_VERSIONS


def _checksums(manifest: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """None in a manifest of before there were any; empty where they are missing."""
    if "format" not in manifest and _CHECKSUMS not in manifest:
        return None
    checksums = manifest.get(_CHECKSUMS)
    return checksums if isinstance(checksums, dict) else {}


def _head_edited(manifest: Mapping[str, Any], sums: Mapping[str, Any] | None) -> str | None:
    if sums is None or sums.get("head") == _of_head(manifest):
        return None
    if not sums.get("head"):
        return "its checksum is missing"
    return _OTHER


def _damaged_stages(stages: Mapping[str, Any], sums: Mapping[str, Any] | None) -> dict[str, Damage]:
    known = {} if sums is None else sums.get("stages")
    known = known if isinstance(known, dict) else {}
    damaged: dict[str, Damage] = {}
    for name in (*known, *(name for name in stages if name not in known)):
        if name not in stages:
            damaged[name] = Damage("it is missing", None)
        elif wrong := _misformed(StageRecord, stages[name]):
            damaged[name] = Damage(wrong, _command(stages[name]))
        elif sums is not None and known.get(name) != _of_stage(name, stages[name]):
            wrong = _OTHER if name in known else "its checksum is missing"
            damaged[name] = Damage(wrong, _command(stages[name]))
    return damaged


def _command(record: Any) -> str | None:
    command = record.get("command") if isinstance(record, dict) else None
    return command if isinstance(command, str) and re.fullmatch(_COMMAND, command) else None


def _of_head(manifest: Mapping[str, Any]) -> str:
    return sha256_json({key: value for key, value in manifest.items() if key not in ("stages", _CHECKSUMS)})


def _of_stage(name: str, record: Any) -> str:
    return sha256_json([name, json.loads(json.dumps(record))])


def _misformed(form: type[Form], values: Any) -> str | None:
    """What is wrong first, in a few words."""
    if not isinstance(values, dict):
        return "it is no table"
    try:
        form.model_validate(values)
    except ValidationError as error:
        return first_wrong(error)
    return None
