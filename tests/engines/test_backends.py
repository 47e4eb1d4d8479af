"""The one table of engines: what it says of each is so."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from testbed.core.errors import UsageError
from testbed.engines.backends import BACKENDS, check_engine, known_engines, registered_engine

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", BACKENDS)
def test_each_names_a_runner_class_that_there_is_under_the_name_it_records(name: str) -> None:
    """Read, not imported: most machines lack some of the libraries."""
    module, _, runner = BACKENDS[name].runner_path.partition(":")
    spec = find_spec(f"testbed.engines.{module}")
    assert spec is not None
    assert spec.origin is not None
    text = Path(spec.origin).read_text()
    assert runner in {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)}
    assert f'"{name}"' in text


def test_what_pip_is_told_to_install_is_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    required = [*project["dependencies"], *extras["openvino"], *extras["tensorrt"], *extras["rtx"]]
    packages = {re.split(r"[^\w-]", requirement)[0] for requirement in required}
    assert {backend.package for backend in BACKENDS.values()} <= packages


def test_an_engine_of_another_package_joins_but_never_takes_a_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (package := tmp_path / "vendor-1.0.dist-info").mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: vendor\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[testbed.engines]\nnpu = vendor:Runner\ntorch = vendor:Runner\n")
    (tmp_path / "vendor.py").write_text(
        "class Runner:\n    precisions = ('int8',)\n    @staticmethod\n    def available():\n        return '7'\n"
    )
    assert "npu" not in known_engines()
    monkeypatch.syspath_prepend(tmp_path)
    assert known_engines() == [*BACKENDS, "npu"]
    assert registered_engine("torch") is BACKENDS["torch"]
    npu = registered_engine("npu")
    assert (npu.name, npu.precisions, npu.available(), npu.runner.__name__) == ("npu", ("int8",), (True, "7"), "Runner")
    check_engine("npu", "int8")
    with pytest.raises(UsageError, match="engine 'npu' does not offer 'fp32'; it offers int8"):
        check_engine("npu", "fp32")


def test_an_engine_that_nobody_offers_is_refused_naming_a_near_one() -> None:
    with pytest.raises(UsageError, match="unknown engine 'openvin'; did you mean 'openvino'"):
        registered_engine("openvin")
