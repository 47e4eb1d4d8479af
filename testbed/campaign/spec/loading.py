"""A spec's file: read as TOML, and some of its values changed as the command line asks."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from testbed.campaign.spec.ready_made import where_specs_are
from testbed.core.errors import UsageError
from testbed.core.folder.parsing import DEEPEST, text_of, toml_value

_PART = re.compile(r'"(?P<quoted>[^"]*)"|(?P<bare>[^.\[\]"]+)|\[(?P<entry>[^\]]*)\]')
_IMPORT = "testbed import {} --run DIR, then [model] run = DIR in the spec that testbed campaign new NAME --from cifar10 writes"
_MODELS = {
    ".onnx": '[model] onnx = "{}" in the one that testbed campaign new NAME --from onnx writes',
    ".pth": _IMPORT,
    ".pt": _IMPORT,
    ".safetensors": _IMPORT,
}
_PLACE = re.compile(r"\s*\(at (?P<place>line \d+, column \d+|end of document)\)$")


def read_toml(path: Path) -> dict[str, Any]:
    """Raises UsageError that says line and column of what is not TOML, and for a model in place of a spec."""
    if path.suffix.lower() in _MODELS and path.is_file():
        raise UsageError(
            f"{path} is a model, and a spec is wanted, which names it: {_MODELS[path.suffix.lower()].format(path)}"
        )
    try:
        text = text_of(path)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file; {where_specs_are(path)}") from error
    except IsADirectoryError as error:
        raise UsageError(
            f"{path} is a folder; name a spec file, such as one that testbed campaign new writes"
        ) from error
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise UsageError(
            f"{path} is not TOML: line {line}, column {column}: byte 0x{error.object[error.start]:02x} is not UTF-8; save"
            " the file as UTF-8 text"
        ) from error
    except ValueError as error:
        raise UsageError(f"{path} cannot be a spec: {error}") from error
    try:
        return toml_value(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {_placed(str(error), text)}") from error
    except ValueError as error:
        raise UsageError(f"{path} cannot be a spec: {error}") from error


def _placed(complaint: str, text: str) -> str:
    """Where, what, and the line itself."""
    match = _PLACE.search(complaint)
    if match is None:
        return complaint
    position, lines = match["place"], text.split("\n")
    if position.startswith("end"):  # the last line that has anything
        line = max((number for number, own in enumerate(lines, 1) if own.strip()), default=1)
        position = f"line {line}, column {len(lines[line - 1]) + 1}"
    own = lines[int(position.split()[1].rstrip(",")) - 1].strip()
    return f"{position}: {complaint[: match.start()]}" + (f": {own[:80]}" if own else "")


def change(values: dict[str, Any], asked: str) -> None:
    """Sets one key: "engine.backend=openvino", "faults[0].sites=["*.softmax"]", or "faults.0.sites=..."; the value is TOML,
    and a bare word is text."""
    key, equals, text = asked.partition("=")
    *tables, last = _key_parts(key.strip(), asked)
    if not equals:
        raise UsageError(f"--set {asked}: write KEY=VALUE, such as engine.backend=openvino")
    if len(tables) >= DEEPEST:
        raise UsageError(f"--set {key[:40]}...: no key of a spec lies {len(tables)} tables deep")
    container: Any = values
    for depth, table in enumerate(tables):
        if isinstance(container, dict):
            container = container.setdefault(table, {})
        else:
            container = container[_entry(container, table, asked)]
        if not isinstance(container, dict | list):
            name = ".".join(tables[: depth + 1])
            raise UsageError(f"--set {asked}: {name} is not a table or a list of the spec")
    try:
        value = toml_value(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    except ValueError as error:
        raise UsageError(f"--set {key}: {error}") from error
    container[last if isinstance(container, dict) else _entry(container, last, asked)] = value


def _key_parts(key: str, asked: str) -> list[str]:
    """The names and numbers of faults[0].sites, exposure.sites."*.softmax", tiers.images.3."""
    parts: list[str] = []
    at = 0
    for part in _PART.finditer(key):
        between = "." if parts and part["entry"] is None else ""
        if key[at : part.start()] != between or not (parts or part["entry"] is None):
            break
        parts.append(next(own for own in part.groups() if own is not None))
        at = part.end()
    if not parts or at < len(key):
        raise UsageError(f"--set {asked}: write KEY=VALUE, such as engine.backend=openvino or faults[0].per_stratum=1")
    return parts


def _entry(entries: list[Any], number: str, asked: str) -> int:
    if not (number.isdecimal() and len(number) < 10) or int(number) >= len(entries):
        raise UsageError(
            f"--set {asked}: that list's entries are numbered 0 to {len(entries) - 1}, not {number!r}; write, for example,"
            " faults[0].per_stratum=1"
        )
    return int(number)
