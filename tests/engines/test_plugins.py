"""Engines that another package registers: known by name, used for a campaign, and refused in a line where they are broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.campaigns import TINY

RUNNERS = """
from dataclasses import replace

from testbed.engines.onnxruntime.cpu import OrtCpuRunner

class MyRunner(OrtCpuRunner):
    precisions = ("fp32",)

    def __init__(self, request):
        super().__init__(request)
        self.info = replace(self.info, backend="mine")

    @staticmethod
    def available():
        return "7.1"

class Absent(MyRunner):
    @staticmethod
    def available():
        raise RuntimeError("the accelerator is not plugged in")
"""
ENTRIES = """[testbed.engines]
mine = my_engines:MyRunner
absent = my_engines:Absent
broken = my_engines:Nothing
needy = my_needy_engine:Runner
torch = my_engines:MyRunner
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on Python's path in which a small distribution is installed."""
    site = tmp_path_factory.mktemp("site")
    (site / "my_engines.py").write_text(RUNNERS)
    (site / "my_needy_engine.py").write_text("import no_such_library\n")
    (package := site / "my_engines-2.0.dist-info").mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: my-engines\nVersion: 2.0\n")
    (package / "entry_points.txt").write_text(ENTRIES)
    return site


def run_testbed(site: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "testbed", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ["PYTHONPATH"]])},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_campaign_runs_on_it_and_has_the_rows_of_what_it_wraps(site: Path, tiny_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = run_testbed(site, "campaign", "run", TINY, "--set", "engine.backend=mine", "--run", folder, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["engine"]["backend"] == "mine"
    assert summary["marginals"] == json.loads((tiny_run / "summary.json").read_text())["marginals"]
    without = run_testbed(tmp_path, "show", folder)
    assert without.returncode == 2
    assert "unknown engine 'mine'" in without.stderr


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("engine.backend=broken", "engine 'broken' of package 'my-engines' does not load: AttributeError: "),
        (
            "engine.backend=needy",
            "engine 'needy' of package 'my-engines' does not load: no_such_library is not installed",
        ),
        (
            "engine.backend=absent",
            "engine 'absent' cannot run here: engine 'absent' of package 'my-engines': the accel",
        ),
        ("engine.backend=mime", "unknown engine 'mime'; did you mean 'mine'?"),
    ],
)
def test_one_that_is_broken_is_refused_in_a_line(site: Path, tmp_path: Path, setting: str, line: str) -> None:
    done = run_testbed(site, "campaign", "run", TINY, "--set", setting, "--run", tmp_path / "run")
    assert done.returncode in (1, 2)
    assert line in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_precision_it_does_not_take_is_refused(site: Path, tmp_path: Path) -> None:
    words = ("--set", "engine.backend=mine", "--set", "engine.precision=int8")
    done = run_testbed(site, "campaign", "run", TINY, *words, "--run", tmp_path / "run")
    assert "engine 'mine' does not offer 'int8'; it offers fp32" in done.stderr


def test_doctor_lists_them_all(site: Path) -> None:
    engines = json.loads(run_testbed(site, "doctor", "--json").stdout)["engines"]
    found = {engine["detail"] if engine["name"] == "torch" else engine["name"]: engine for engine in engines}
    assert (found["mine"]["available"], found["mine"]["version"]) == (True, "7.1")
    assert not found["absent"]["available"]
    assert "not plugged in" in found["absent"]["detail"]
    assert "does not load" in found["broken"]["detail"]
    assert found["needy"]["install"] == "pip install --force-reinstall my-engines"
    assert "engine 'torch' of package 'my-engines' is not used: the testbed has one of that name" in found
