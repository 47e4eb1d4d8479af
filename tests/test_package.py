"""What the package says of itself agrees: version, citation, changelog."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import testbed

ROOT = Path(__file__).parents[1]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_the_version_is_that_of_the_project() -> None:
    assert testbed.__version__ == VERSION


def test_the_version_is_read_only_when_asked_for() -> None:
    code = "import sys, testbed; assert 'importlib.metadata' not in sys.modules; print(testbed.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, VERSION), done.stderr


def test_unknown_attributes_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'version'"):
        _ = testbed.version


def test_the_citation_names_the_version_and_its_day() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    (version,) = re.findall(r"^version: (.+)$", citation, re.MULTILINE)
    (day,) = re.findall(r"^date-released: (.+)$", citation, re.MULTILINE)
    assert version == VERSION
    assert f"## {version} - {day}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_every_test_that_is_not_quick_is_there() -> None:
    lines = (ROOT / "tests" / "not_quick.txt").read_text().splitlines()
    for line in (line for line in lines if not line.startswith("#")):
        file, _, function = line.partition("::")
        assert f"def {function}" in (ROOT / "tests" / file).read_text(), f"tests/not_quick.txt: there is no {line}"


def test_the_quick_loop_has_a_test_of_every_package() -> None:
    left_out = set((ROOT / "tests" / "not_quick.txt").read_text().splitlines())
    without = []
    tested_elsewhere = {"export"}  # with the fixtures of tests/instrument
    for package in sorted({init.parent.name for init in (ROOT / "testbed").glob("*/__init__.py")} - tested_elsewhere):
        files = [file for file in (ROOT / "tests" / package).rglob("test_*.py") if _below_tests(file) not in left_out]
        if all(f"{_below_tests(file)}::{name}" in left_out for file in files for name in _quick_tests(file)):
            without.append(package)
    assert without == []


def _below_tests(file: Path) -> str:
    return file.relative_to(ROOT / "tests").as_posix()


def _quick_tests(file: Path) -> Iterator[str]:
    """Names of its tests that are neither slow nor for a GPU."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            marks = " ".join(map(ast.unparse, node.decorator_list))
            if "mark.slow" not in marks and "mark.gpu" not in marks:
                yield node.name
