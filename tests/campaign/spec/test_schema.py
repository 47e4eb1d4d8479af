"""The published JSON schema: it takes what the spec takes, by the standard's own library."""

from __future__ import annotations

import copy
import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from testbed.campaign.spec.campaign import parse_spec
from testbed.campaign.spec.ready_made import ready_made
from testbed.campaign.spec.schema import SCHEMA_FILE, spec_schema
from testbed.core.errors import UsageError
from testbed.engines.backends import BACKENDS

SPEC: dict[str, Any] = {
    "name": "small",
    "model": {"run": "runs/vit"},
    "faults": [{"target": "model", "where": "activation", "ops": ["flip"]}],
}
CHECK = jsonschema.Draft7Validator(spec_schema())


def changed(key: str, value: Any) -> dict[str, Any]:
    values = copy.deepcopy(SPEC)
    place: Any = values
    *tables, last = key.split(".")
    for table in tables:
        place = place[int(table)] if isinstance(place, list) else place.setdefault(table, {})
    place[last] = value
    return values


def test_it_is_a_schema_of_draft_07_and_the_committed_file_is_of_this_version() -> None:
    jsonschema.Draft7Validator.check_schema(spec_schema())
    committed = Path(__file__).parents[3] / "campaigns" / SCHEMA_FILE
    assert json.loads(committed.read_text()) == spec_schema(), (
        f"make it again: testbed campaign schema > campaigns/{SCHEMA_FILE}"
    )


@pytest.mark.parametrize("name", sorted(ready_made()))
def test_every_ready_made_spec_fits_and_names_the_schema(name: str) -> None:
    text = ready_made()[name].path.read_text()
    CHECK.validate(tomllib.loads(text))
    assert text.startswith(f"#:schema ./{SCHEMA_FILE}\n")


@pytest.mark.parametrize("key", ["typo", "engine.typo", "faults.0.typo", "model.typo", "stop.typo"])
def test_an_unknown_key_does_not_fit_at_its_place(key: str) -> None:
    values = changed(key, 1) | ({"stop": {"margin": 0.1, "typo": 1}} if key == "stop.typo" else {})
    errors = list(CHECK.iter_errors(values))
    assert [".".join(map(str, error.path)) for error in errors] == [key.rpartition(".")[0]]
    assert "'typo' was unexpected" in errors[0].message


@pytest.mark.parametrize(
    ("key", "right", "wrong"),
    [
        ("name", ["a", "a-1.b_c"], ["", "a b", "-a", 1]),
        ("seed", [0, 2**32 - 1], [-1, 2**32, "x"]),
        ("confidence", [0.01, 0.999], [0, 1, "high"]),
        ("detector", ["none", "nonfinite"], ["nan"]),
        ("model", [{"run": "x"}], [3, "x"]),
        ("data.images", [1, 2**31 - 1], [0, 2**31]),
        ("data.classes", ["natural", ["a", "b"]], [1, [1]]),
        ("data.preprocess", ["cifar10", {"preset": "imagenet", "crop": 0.9}], [7]),
        ("tiers.images", [[0, 1, 2, 1_000], [999_997, 1, 1, 1]], [[-1, 1, 1, 1], [1_000_001, 1, 1, 1], 3]),
        ("tiers.exact", [True], ["perhaps"]),
        ("engine.backend", ["ort-cpu", "openvino", "torch"], ["", "ort cpu", 1]),
        ("engine.precision", ["fp32", "int8"], ["int4", "uint8"]),
        ("engine.batch", [1, 8192, "auto"], [0, 8193, "automatic"]),
        ("engine.unit", [1, 1_000_000], [0, 1_000_001]),
        ("engine.ports", ["xor", "op", "gated_replace"], ["or"]),
        ("engine.evaluation", ["whole", "fastest"], ["slow"]),
        ("gates.test_accuracy", [0, 0.5, 1.0], [-0.1, 1.1]),
        ("gates.parity_max_abs", [1e-9, 1e38], [0, 1e39]),
        ("gates.zero_fault_rows", [1, 100_000], [0, 100_001]),
        ("tolerance.atol", [0, 1e-3, [0, 1, 2, 3]], [-1, [-1, 0, 0, 0], "small"]),
        ("exposure.sites", [{"*": 1.5}], [{}, {"*": -1}]),
        ("stop.margin", [1e-6, 0.4], [0, 0.5]),
        ("faults", [SPEC["faults"]], [[], {}]),
        ("faults.0.where", ["weight"], ["bias"]),
        ("faults.0.ops", [["flip", "stuck0"]], [["swap"], "flip"]),
        ("faults.0.bits", ["all", "20-30", "0-3, 31", " 5 ", [0, 31]], ["some", "1-", [32], [-1], 3]),
        ("faults.0.per_stratum", [1, 2**31 - 1], [0, 2**31]),
        ("faults.0.scope", ["persistent"], ["forever"]),
    ],
)
def test_a_value_fits_where_the_spec_takes_it(key: str, right: list[Any], wrong: list[Any]) -> None:
    for value in right:
        parse_spec(changed(key, value))
        CHECK.validate(changed(key, value))
    for value in wrong:
        with pytest.raises(UsageError):
            parse_spec(changed(key, value))
        assert not CHECK.is_valid(changed(key, value)), value


def test_an_engine_of_another_package_fits_and_is_completed_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    values = changed("engine.backend", "vendor-npu_2.1")
    CHECK.validate(values)  # in a schema that was written elsewhere
    with pytest.raises(UsageError, match=r"unknown engine 'vendor-npu_2\.1'"):
        parse_spec(values)
    (package := tmp_path / "vendor-1.0.dist-info").mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: vendor\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        "[testbed.engines]\nvendor-npu_2.1 = testbed.engines.onnxruntime.cpu:OrtCpuRunner\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert parse_spec(values).engine.backend == "vendor-npu_2.1"
    schema = spec_schema()
    jsonschema.Draft7Validator(schema).validate(values)
    completed = schema["definitions"]["EngineSpec"]["properties"]["backend"]["anyOf"][0]["enum"]
    assert completed == [*BACKENDS, "vendor-npu_2.1"]


def test_what_is_missing_does_not_fit() -> None:
    for key in SPEC:
        assert not CHECK.is_valid({name: value for name, value in SPEC.items() if name != key})


def test_every_key_and_table_has_a_description() -> None:
    schema = spec_schema()
    tables = {"": schema, **schema["definitions"]}
    missing = [
        f"{name}.{key}"
        for name, table in tables.items()
        for key, value in [("", table), *table["properties"].items()]
        if not value.get("description", "").strip()
    ]
    assert missing == []
    assert '"null"' not in json.dumps(schema)  # TOML has none
