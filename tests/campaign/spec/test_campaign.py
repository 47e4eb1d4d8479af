"""The spec: everything that is wrong with one is told in one line, with the key's path, before anything runs."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from testbed.campaign.spec.campaign import CampaignSpec, load_spec, parse_spec
from testbed.core.errors import TestbedError, UsageError

PYDANTIC = re.compile(r"Input should|required|validation|Value error|type=|pydantic")
SPECS = sorted((Path(__file__).parents[3] / "campaigns").glob("*.toml"))


def put(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with ``value`` at ``path`` ("faults.0.sites")."""
    changed = copy.deepcopy(values)
    *parents, last = path.split(".")
    at: Any = changed
    for part in parents:
        at = at[int(part)] if part.isdigit() else at.setdefault(part, {})
    at[last] = value
    return changed


def as_written(path: str) -> str:
    """ "faults[0].sites" of faults.0.sites."""
    return re.sub(r"\.(\d+)", r"[\1]", path)


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(UsageError) as caught:
        parse_spec(values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_the_ready_made_campaigns_are_valid(path: Path) -> None:
    assert load_spec(path).faults


@pytest.mark.parametrize(
    ("path", "known"),
    [
        ("sead", "seed"),
        ("data.nane", "name"),
        ("model.prezet", "preset"),
        ("tiers.edge", "edges"),
        ("engine.thread", "threads"),
        ("gates.drift", "drift_max_abs"),
        ("tolerance.tol", "atol"),
        ("faults.1.bit", "per_stratum"),
    ],
)
def test_an_unknown_key_is_named_with_its_path_and_the_known_ones(
    tiny_values: dict[str, Any], path: str, known: str
) -> None:
    told = refusal(put(tiny_values, path, 1))
    assert f"{as_written(path)}: unknown key" in told
    assert known in told.split("nown keys there:")[1]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", "forty-two"),
        ("seed", -1),
        ("seed", 2**32),
        ("seed", 1.5),
        ("confidence", 1.0),
        ("confidence", float("nan")),
        ("data.name", 3),
        ("data.images", 0),
        ("model.overrides", "wide"),
        ("tiers.images", [0.5, 3]),
        ("tiers.images", [-1, 3]),
        ("engine.batch", 0),
        ("engine.threads", 0),
        ("engine.batch", "many"),
        ("gates.test_accuracy", 1.5),
        ("gates.drift_max_abs", 0),
        ("gates.parity_max_abs", float("inf")),
        ("tolerance.rtol", -1e-4),
        ("tolerance.rtol", float("nan")),
        ("tolerance.rtol_grid", [0.0, -1.0]),
        ("faults.0.per_stratum", 0),
        ("faults.0.bits", [32]),
        ("faults.0.bits", [-1]),
        ("faults.0.bits", "some"),
        ("faults.0.bits", []),
        ("faults.0.ops", ["melt"]),
        ("faults.0.ops", []),
        ("faults.0.sites", []),
        ("faults.0.sites", "head"),
        ("faults.0.where", "weights"),
        ("faults.0.target", "head"),
    ],
)
def test_a_wrong_value_is_named_with_its_path(tiny_values: dict[str, Any], path: str, value: Any) -> None:
    told = refusal(put(tiny_values, path, value))
    assert as_written(path) in told
    assert not PYDANTIC.search(told)


@pytest.mark.parametrize("key", ["name", "model", "faults"])
def test_a_missing_key_is_named(tiny_values: dict[str, Any], key: str) -> None:
    del tiny_values[key]
    assert refusal(tiny_values).startswith(f"spec: {key}: ")


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("name", "a/b", "name"),
        ("name", "..", "name"),
        ("engine.backend", "abacus", "unknown engine 'abacus'"),
        ("engine.precision", "fp8", "does not offer 'fp8'"),
        ("detector", "eyes", "unknown detector 'eyes'; known: none"),
        ("tiers.images", [3], "tiers.images: names 1 tiers, edges 2"),
        ("tiers.images", [0, 0], "asks for no image at all"),
        ("tiers.edges", [0.9, 0.2], "edges"),
        ("tolerance.atol", [1e-4, 1e-4, 1e-4], "tolerance.atol: names 3 tiers, tiers.edges 2"),
        ("faults", [], "faults"),
        ("model.recipe", None, "name a preset and a recipe"),
        ("model.run", "somewhere", "leave out preset"),
    ],
)
def test_what_does_not_fit_together_is_told(tiny_values: dict[str, Any], path: str, value: Any, told: str) -> None:
    assert told in refusal(put(tiny_values, path, value))


def test_a_campaign_without_data_says_how_to_name_it(tiny_values: dict[str, Any]) -> None:
    del tiny_values["data"]
    assert "[data] name" in refusal(tiny_values)


@pytest.mark.parametrize(("key", "values"), [("ops", ["flip", "flip"]), ("bits", [30, 3, 30])])
def test_a_fault_cannot_be_named_twice_in_one_section(tiny_values: dict[str, Any], key: str, values: list[Any]) -> None:
    told = refusal(put(tiny_values, f"faults.0.{key}", values))
    assert f"faults[0].{key}" in told
    assert "twice" in told


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda path: path.write_text("name = "), "is not TOML"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "is not TOML"),
        (lambda path: path.write_text("name = 'a'\nname = 'b'"), "is not TOML"),
        (lambda path: path.write_text(""), "name"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: None, "no such file; ready-made specs: testbed campaign list"),
    ],
    ids=["syntax", "bytes", "key twice", "empty", "folder", "missing"],
)
def test_a_file_that_is_no_spec_is_refused_by_name(tmp_path: Path, write: Callable[[Path], Any], told: str) -> None:
    path = tmp_path / "spec.toml"
    write(path)
    with pytest.raises(UsageError) as caught:
        load_spec(path)
    assert str(path) in str(caught.value)
    assert told in str(caught.value)


def test_the_spec_survives_the_manifest(tiny_spec: CampaignSpec) -> None:
    """What `open_run` reads back is the spec that was run."""
    assert parse_spec(tiny_spec.identity()) == tiny_spec


def test_one_tolerance_stands_for_every_tier(tiny_values: dict[str, Any]) -> None:
    assert parse_spec(tiny_values).tolerance.per_tier(2) == (1e-4, 1e-4)
    tiny_values["tolerance"]["atol"] = [1e-6, 1e-3]
    assert parse_spec(tiny_values).tolerance.per_tier(2) == (1e-6, 1e-3)


def test_legs_name_every_engine_that_is_needed_once(tiny_spec: CampaignSpec) -> None:
    assert list(tiny_spec.target_places) == [
        ("model", "activation"),
        ("model", "weight"),
        ("attention", "activation"),
        ("attention", "weight"),
    ]
    assert tiny_spec.target_places["model", "weight"] == (("*.fc1.weight", "head.bias"),)
    assert tiny_spec.targets == ("model", "attention")


def test_the_data_of_a_trained_model_needs_no_name(tiny_values: dict[str, Any]) -> None:
    tiny_values |= {"model": {"run": "somewhere"}, "data": {"images": 5}}
    spec = parse_spec(tiny_values)
    assert spec.data is not None
    assert (spec.data.images, spec.named_data) == (5, None)
    whole = {"faults": tiny_values["faults"][:2]}
    assert "[data] name" in refusal(tiny_values | whole | {"model": {"onnx": "some.onnx"}})
    assert "state name, too" in refusal(tiny_values | {"data": {"root": "photos"}})


# ---- names that only the data, the models and the sites know: refused before anything is written


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("data.name", "digitz", "unknown data set 'digitz'"),
        ("data.preprocess", "sepia", "sepia"),
        ("data.name", "npz:/nowhere.npz", "nowhere.npz"),
        ("model.preset", "digitz", "unknown model preset 'digitz'"),
        ("model.overrides.hands", 3, "unknown key 'hands'"),
        ("model.overrides.image", 9, "9"),
        ("model.overrides.classes", 7, "model.overrides.classes = 10"),
        ("model.overrides.heads", [0], "first block has no attention"),
        ("model.recipe", "digitz", "digitz"),
        ("model.training.epoch", 3, "unknown key 'epoch'"),
        ("faults.0.sites", ["*", "block.7.*"], r"no activation site of target 'model' matches 'block.7.*'"),
        ("faults.1.sites", ["*.softmax"], "no weight site of target 'model'"),
        ("faults.2.sites", ["head"], "no activation site of target 'attention'"),
    ],
)
def test_unknown_names_are_refused_and_nothing_is_written(
    tiny_values: dict[str, Any], tmp_path: Path, run_spec: Any, path: str, value: Any, told: str
) -> None:
    with pytest.raises(TestbedError) as caught:
        run_spec(parse_spec(put(tiny_values, path, value)), tmp_path / "run")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


STATED = {"resize": "squash", "size": 8, "crop": 0.9, "interpolation": "bicubic", "mean": [0.5], "std": [0.25]}


def test_preprocessing_and_classes_are_kept_by_their_values(tiny_values: dict[str, Any], tmp_path: Path) -> None:
    """Not by the path of a file, which may say something else tomorrow."""
    (tmp_path / "p.json").write_text(json.dumps(STATED))
    (tmp_path / "c.txt").write_text("\n".join("9876543210"))
    as_files = {"data.preprocess": str(tmp_path / "p.json"), "data.classes": str(tmp_path / "c.txt")}
    as_values = {"data.preprocess": STATED, "data.classes": list("9876543210")}
    found = []
    for stated in (as_files, as_values):
        values = tiny_values
        for path, value in stated.items():
            values = put(values, path, value)
        found.append(parse_spec(values))
    assert found[0] == found[1]
    data = found[0].identity()["data"]
    assert data["classes"] == list("9876543210")
    assert data["preprocess"] == {"name": "stated", **STATED}
    assert json.loads(json.dumps(found[0].identity())) == found[0].identity()
    assert parse_spec(put(tiny_values, "data.preprocess", "half")).identity()["data"]["preprocess"] == "half"
    assert parse_spec(put(tiny_values, "data.classes", "natural")).identity()["data"]["classes"] == "natural"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "data.preprocess",
            {"crp": 0.9},
            "data.preprocess: preprocess: unknown key 'crp'; did you mean 'crop'? Known: preset",
        ),
        ("data.preprocess", "imagenett", "data.preprocess: unknown preprocess 'imagenett'"),
        ("data.preprocess", 0.9, "data.preprocess"),
        ("data.classes", "nowhere.txt", "data.classes: classes: there is no file nowhere.txt"),
        ("data.classes", ["a", "a"], "data.classes: classes: class 'a' is told twice"),
        ("data.classes", 3, "data.classes"),
    ],
)
def test_preprocessing_and_classes_that_cannot_be(
    tiny_values: dict[str, Any], path: str, value: Any, message: str
) -> None:
    assert message in refusal(put(tiny_values, path, value))


@pytest.mark.parametrize("ports", ["op", "xor"])
def test_ports_that_openvino_has_no_operator_for_are_refused_before_anything_is_made(ports: str) -> None:
    with pytest.raises(UsageError, match=f"openvino has no operator for '{ports}'; set engine.ports = 'gated_replace'"):
        load_spec(SPECS[0].with_name("digits.toml"), ["engine.backend=openvino", f"engine.ports={ports}"])
