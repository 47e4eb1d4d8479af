"""Reference page of the spec's keys, from its JSON schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from documentation.markdown import anchored, cell, code, prose, table
from testbed.campaign.spec.errors import shown
from testbed.campaign.spec.schema import SCHEMA_FILE, SCHEMA_LINE, spec_schema

_REFERENCE = "#/definitions/"
_ROOT = Path(__file__).resolve().parents[2]

EXAMPLES = {
    "model": '[model]\nonnx = "vit.onnx"  # or run = "runs/vit"; or preset = "digits" and recipe = "digits"\n',
    "data": """\
[data]
name = "imagefolder:photos/test"
preprocess = { preset = "imagenet", crop = 0.9, interpolation = "bicubic" }
classes = "natural"
""",
    "tiers": "[tiers]\nedges = [0.25, 0.5, 0.75, 1.0]\nimages = [16, 16, 64, 64]\n",
    "engine": '[engine]\nbackend = "openvino"\nprecision = "int8"\nbatch = "auto"\n',
    "gates": "[gates]\ntest_accuracy = 0.9\n",
    "tolerance": "[tolerance]\natol = [1e-5, 1e-4, 1e-4, 1e-4]  # one per tier\nrtol = 1e-4\n",
    "attention": '[attention]\nblock = 3  # sections with target = "attention" strike block.3.attn\n',
    "protection": '[protection]\non_detected = "rerun"\n',
    "faults": """\
[[faults]]
target = "model"
where = "activation"
sites = ["block.*.attn.*"]
ops = ["flip"]
bits = "23-30"
per_stratum = 4

[[faults]]
target = "model"
where = "weight"
pattern = "burst"
length = 4
""",
    "exposure": '[exposure]\nunit = "FIT"\nper_bit = true\nsites = { "*" = 1e-9, "block.*.mlp.fc1.weight" = 2e-9 }\n',
    "protect": '[protect]\nwith = ["range", "checksum"]\nwhere = ["range:*.attn.v"]\n',
    "stop": '[stop]\nmargin = 0.01\nper = "kind x bit_class"\nmax_faults = 100_000\n',
}
"""Of each table; tests read them."""


def spec_page() -> str:
    """The page."""
    schema = spec_schema()
    example = (_ROOT / "campaigns" / "digits.toml").read_text()
    return "\n".join(
        [
            "# Spec keys\n",
            "A campaign is asked for by one TOML file, its spec. It is read whole before anything runs: an unknown key, a value"
            " of the wrong kind and keys that contradict each other are refused with their place, all at once."
            " `testbed campaign run SPEC --dry-run` only reads and plans. Any key can be changed on the command line:"
            " `--set engine.backend=openvino`, `--set 'faults[0].sites=[\"*.softmax\"]'`.\n",
            f"The same as a JSON schema: [{SCHEMA_FILE}]({SCHEMA_FILE}), which `testbed campaign schema` prints. Editors with"
            f" Taplo or Even Better TOML complete and check a spec whose first line is `{SCHEMA_LINE}` and beside which that"
            " file lies; `testbed campaign new NAME --schema` writes both.\n",
            "## The whole spec {#spec}\n",
            prose(schema["description"].replace("``", "`")) + "\n",
            *_table_of(schema, ""),
            '??? example "campaigns/digits.toml"\n',
            _indented(f"```toml\n{example}```\n"),
            *(part for key, value in schema["properties"].items() for part in _section(schema, key, value)),
        ]
    )


def keys() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """("engine.batch", its schema) of every key, tables among them."""
    schema = spec_schema()
    for key, value in schema["properties"].items():
        yield key, value
        if definition := _definition(schema, value):
            yield from ((f"{key}.{inner}", part) for inner, part in definition["properties"].items())


def _section(schema: Mapping[str, Any], key: str, value: Mapping[str, Any]) -> Iterator[str]:
    definition = _definition(schema, value)
    if definition is None:
        return
    heading = f"[[{key}]]" if value.get("type") == "array" else f"[{key}]"
    yield f"## {prose(heading)} {{#{key}}}\n"
    yield prose(definition["description"]) + "\n"
    yield from _table_of(definition, f"{key}.")
    yield f"```toml\n{EXAMPLES[key]}```\n"


def _table_of(schema: Mapping[str, Any], prefix: str) -> Iterator[str]:
    rows = []
    for key, value in schema["properties"].items():
        missing = "*required*" if key in schema.get("required", ()) else ""
        default = code(shown(value["default"])) if value.get("default", {}) not in ({}, None) else missing
        rows.append([anchored(key, prefix + key), _kind(value), default, cell(value["description"])])
    yield table(["key", "value", "default", "meaning"], rows)


def _definition(schema: Mapping[str, Any], value: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The table that a key holds, if it is one."""
    reference = value.get("items", value.get("allOf", [{}])[0] if "allOf" in value else value).get("$ref")
    return schema["definitions"][reference.removeprefix(_REFERENCE)] if reference else None


def _kind(value: Mapping[str, Any]) -> str:
    """What may be written there."""
    if "allOf" in value:
        return "table"
    if "anyOf" in value:
        return " or ".join(_kind(option) for option in value["anyOf"])
    if "const" in value:
        return code(shown(value["const"]))
    if "enum" in value:
        return ", ".join(code(shown(option)) for option in value["enum"])
    if value.get("type") == "array":
        return "tables" if "$ref" in value["items"] else f"list of: {_kind(value['items'])}"
    if value.get("type") == "object":
        inner = value.get("additionalProperties")
        return f"table of: {_kind(inner)}" if isinstance(inner, dict) else "table"
    names = {"integer": "whole number", "number": "number", "boolean": "`true` or `false`", "string": "text"}
    return names[value["type"]] + _bounds(value)


def _bounds(value: Mapping[str, Any]) -> str:
    whole = value["type"] == "integer"
    low = value.get("minimum")
    high = value.get("maximum", value["exclusiveMaximum"] - 1 if whole and "exclusiveMaximum" in value else None)
    if low is not None and high is not None:
        return f", {_number(low)} to {_number(high)}"
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    told = [f"{word} {_number(value[key])}" for key, word in words.items() if key in value]
    return f", {' and '.join(told)}" if told else ""


def _number(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:.10g}"


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" if line else "\n" for line in text.splitlines())
