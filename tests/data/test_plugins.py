"""Data sets that somebody registers, on the command line: from a module, a file, or an installed package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.data.plugins import VARIABLE

STRIPES = """
import numpy as np
from testbed.data import Collection, Examples, register

@register("stripes", note="rows or columns")
def stripes(request):
    labels = np.arange(40) % 2
    images = np.zeros((40, 8, 8), np.uint8)
    images[labels == 0, ::2] = 255
    images[labels == 1, :, ::2] = 255
    return Collection(classes=["rows", "columns"], test=Examples.from_arrays("stripes", images, labels))
"""


def run_testbed(folder: Path, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder / "site"), os.environ["PYTHONPATH"]])
    return subprocess.run(
        [sys.executable, "-m", "testbed", *args],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    (tmp_path / "my_stripes.py").write_text(STRIPES)
    return tmp_path


def test_without_a_word_it_is_unknown(folder: Path) -> None:
    done = run_testbed(folder, "data", "check", "stripes")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown data set 'stripes'" in done.stderr


def test_a_file_a_module_and_a_package_make_it_known(folder: Path) -> None:
    site = folder / "site"
    (site / "installed_stripes.py").write_text(STRIPES)
    ways: list[tuple[tuple[str, ...], dict[str, str]]] = [
        (("--plugin", "my_stripes.py"), {}),
        (("--plugin", "installed_stripes"), {}),
        ((), {VARIABLE: os.pathsep.join(["installed_stripes", str(folder / "my_stripes.py")])}),
    ]
    for options, environment in ways:
        done = run_testbed(folder, *options, "data", "check", "stripes", "--json", **environment)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["classes"] == ["rows", "columns"]
    package = site / "stripes-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: stripes\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[testbed.data]\nstripes = installed_stripes\n")
    listed = run_testbed(folder, "data", "list", "--json")
    assert {"stripes", "digits"} <= {one["name"] for one in json.loads(listed.stdout)["data_sets"]}


def test_a_module_may_load_what_it_registers(folder: Path) -> None:
    """As README's does, which is run as a script and named as a plugin."""
    (folder / "my_data.py").write_text(
        STRIPES + "\nfrom testbed.data import load\nassert len(load('stripes').test) == 40\n"
    )
    done = run_testbed(folder, "--plugin", "my_data.py", "data", "check", "stripes", "--json")
    assert done.returncode == 0, done.stderr[-300:]
    assert json.loads(done.stdout)["classes"] == ["rows", "columns"]


@pytest.mark.parametrize(
    ("plugin", "content", "told"),
    [
        ("nothing.py", None, "nothing.py' is not there; name a module on Python's path, or a file: FILE.py"),
        ("no_such_module", None, "plugin 'no_such_module' is not there; name a module"),
        ("needy.py", "import no_such_library", "needy.py' needs the module 'no_such_library', which is not installed"),
        ("broken.py", "1 / 0", "broken.py' does not load: ZeroDivisionError: division by zero"),
        ("odd.py", "def", "odd.py' does not load: SyntaxError: invalid syntax"),
    ],
)
def test_one_that_cannot_be_loaded_is_one_line(folder: Path, plugin: str, content: str | None, told: str) -> None:
    if content is not None:
        (folder / plugin).write_text(content)
    done = run_testbed(folder, "--plugin", plugin, "data", "list")
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert done.stderr.startswith("error: plugin ")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
