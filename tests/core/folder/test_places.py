"""Paths of a spec: found from two folders, kept out of what is recorded, and put back from beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from testbed.core.folder.places import (
    SOURCES,
    absolute,
    data_name,
    near,
    placeless,
    portable,
    with_sources,
    write_sources,
)


def spec(**data: Any) -> dict[str, Any]:
    return {"name": "x", "model": {"onnx": "nets/vit.onnx"}, "data": {"name": "imagefolder:pictures/test", **data}}


def test_paths_are_those_of_the_current_folder_then_of_the_specs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        (folder / "nets").mkdir(parents=True)
    (there / "pictures" / "test").mkdir(parents=True)
    (there / "pre.json").touch()
    for folder in (here, there):
        (folder / "nets" / "vit.onnx").touch()
    monkeypatch.chdir(here)
    found = near(spec(preprocess="pre.json"), there)
    assert found["model"]["onnx"] == "nets/vit.onnx"
    assert found["data"] == {"name": f"imagefolder:{there}/pictures/test", "preprocess": f"{there}/pre.json"}
    (here / "nets" / "vit.onnx").unlink()
    assert near(spec(), there)["model"]["onnx"] == f"{there}/nets/vit.onnx"


@pytest.mark.parametrize("values", [{}, {"model": 3, "data": []}, {"data": {"name": 5}, "model": {"run": None}}])
def test_what_is_no_spec_stays_as_it_is(values: dict[str, Any], tmp_path: Path) -> None:
    for change in (absolute, portable, placeless, lambda found: near(found, tmp_path)):
        assert change(values) == values


def test_recorded_values_have_the_last_part_and_the_full_path_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = spec(root="data")
    recorded = portable(absolute(values))
    assert recorded == {
        "name": "x",
        "model": {"onnx": "vit.onnx"},
        "data": {"name": "imagefolder:pictures/test", "root": "data"},
    }
    write_sources(tmp_path, values)
    assert with_sources(recorded, tmp_path) == absolute(values)
    for damaged in ("", "[]", "{", json.dumps({"model": 1})):
        (tmp_path / SOURCES).write_text(damaged)
        assert with_sources(recorded, tmp_path) == recorded


def test_a_data_set_that_the_model_names_keeps_no_name_in_the_spec(tmp_path: Path) -> None:
    write_sources(tmp_path, spec())
    part = {"name": None, "images": 5}
    assert with_sources({"data": part}, tmp_path)["data"] == part


def test_the_data_that_int8_is_calibrated_on_is_a_path_too(tmp_path: Path) -> None:
    values = {"engine": {"calibration_data": "imagefolder:/here/cifar10/train"}}
    assert portable(values) == {"engine": {"calibration_data": "imagefolder:cifar10/train"}}
    write_sources(tmp_path, values)
    assert with_sources(portable(values), tmp_path) == values
    assert portable({"engine": {"calibration_data": "train"}}) == {"engine": {"calibration_data": "train"}}


def test_specs_are_the_same_wherever_things_lie() -> None:
    elsewhere = {"name": "x", "model": {"onnx": "/b/y.onnx"}, "data": {"name": "imagefolder:/photos", "root": "/r"}}
    assert placeless(spec()) == placeless(elsewhere)
    assert placeless(spec()) != placeless(elsewhere | {"data": {"name": "npz:/photos"}})
    assert placeless(spec()) != placeless(elsewhere | {"model": {"run": "/b/y"}})


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("digits", "digits"),
        ("imagefolder:/home/me/cifar10/test", "imagefolder:cifar10/test"),
        ("imagefolder:/home/me/photos", "imagefolder:photos"),
        ("npz:tiny.npz", "npz:tiny.npz"),
    ],
)
def test_data_sets_are_named_without_folders(name: str, shown: str) -> None:
    assert data_name(name) == shown
