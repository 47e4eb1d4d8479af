"""The JSON schema of a spec, for editors that complete and check TOML (Taplo, Even Better TOML).

It says what each key takes by itself. What the keys ask of each other, `testbed campaign run --dry-run` checks.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from testbed.campaign.spec.campaign import CampaignSpec

SCHEMA_FILE = "testbed.schema.json"  # beside a spec; its first line names it
SCHEMA_LINE = f"#:schema ./{SCHEMA_FILE}"


def spec_schema() -> dict[str, Any]:
    """The schema in draft 07, which editors read."""
    schema = CampaignSpec.model_json_schema(ref_template="#/definitions/{model}", schema_generator=_TomlSchema)
    definitions = schema.pop("$defs")
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **_referring(schema),
        "title": "Campaign of testbed",
        "definitions": {name: _referring(part) for name, part in sorted(definitions.items())},
    }


def schema_text() -> str:
    """The schema as it is printed and written."""
    return json.dumps(spec_schema(), indent=1, ensure_ascii=False) + "\n"


class _TomlSchema(GenerateJsonSchema):
    """TOML has no null: a key is there or not."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        if schema.get("default") is None or isinstance(schema["default"], BaseModel):  # a table's keys have their own
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _referring(schema: Any) -> Any:
    """``schema`` with each reference in an allOf of its own: draft 07 ignores what stands beside a reference."""
    if isinstance(schema, list):
        return [_referring(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {key: _referring(part) for key, part in schema.items()}
    if "$ref" in parts and len(parts) > 1:
        return {"allOf": [{"$ref": parts.pop("$ref")}], **parts}
    return parts
