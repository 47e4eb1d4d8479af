"""The code on the pages "Add ..." of the developer guide, put into a copy of the package, works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.guide import ROOT, blocks, is_of_the_tree, patched

_WITHOUT_THE_INSTALLED_ONE = """\
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "ScikitBuildRedirectingFinder"]
"""


class Clone:
    """A copy of the package and its tests, and a folder to work in."""

    def __init__(self, folder: Path) -> None:
        self.tree, self.folder = folder / "clone", folder / "work"
        for part in ("testbed", "tests", "campaigns", "pyproject.toml"):
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            self.tree.mkdir(parents=True, exist_ok=True)
            copy(ROOT / part, self.tree / part)
        (self.tree / "sitecustomize.py").write_text(_WITHOUT_THE_INSTALLED_ONE)
        self.folder.mkdir()

    def follow(self, page: str) -> None:
        """Does what the page says: writes its files, changes those that are there."""
        for kind, name, text in blocks(page):
            file = (self.tree if is_of_the_tree(name) else self.folder) / name
            if kind == "diff":
                text = patched(file.read_text(), text)
            else:
                assert not file.exists(), f"{name} is there already"
            file.write_text(text)

    def python(self, *arguments: str | Path, cwd: Path | None = None) -> str:
        environment = os.environ | {"PYTHONPATH": str(self.tree)}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=cwd or self.folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def testbed(self, *arguments: str) -> str:
        return self.python("-m", "testbed", "--plugin", "my_stripes.py", *arguments)

    def campaign(self, name: str, change: str) -> None:
        self.testbed("campaign", "run", "stripes.toml", "--run", f"runs/{name}", "--workers", "0", "--set", change)

    def tests(self, *arguments: str) -> str:
        return self.python("-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, cwd=self.tree)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """With the data set of the first page and a campaign on it, finished before anything else is changed."""
    made = Clone(tmp_path_factory.mktemp("guide"))
    made.follow("add-a-data-set.md")
    assert "2 classes: rows, columns" in made.testbed("data", "check", "stripes")
    made.campaign("stripes", "engine.backend=ort-cpu")
    return made


def test_a_report_section(clone: Clone) -> None:
    clone.follow("add-a-report-section.md")
    clone.testbed("report", "runs/stripes")
    assert "<h2>Most fragile sites</h2>" in (clone.folder / "runs/stripes/report.html").read_text()
    assert "2 passed" in clone.tests("tests/report/test_fragile.py")


def test_an_engine(clone: Clone) -> None:
    clone.follow("add-an-engine.md")
    assert "passed" in clone.tests("tests/engines/contract", "-k", "ort-plain")
    clone.campaign("plain", "engine.backend=ort-plain")
    assert "kappa" in clone.testbed("campaign", "compare", "runs/stripes", "runs/plain")


def test_an_evaluator(clone: Clone) -> None:
    clone.follow("add-an-evaluator.md")
    clone.campaign("fast", "engine.evaluation=fastest")
    clone.campaign("whole", "engine.evaluation=whole")
    shares = dict(line.split() for line in clone.python("compare_rows.py").splitlines()[1:-1])
    assert int(shares["unchanged"]) > 100
    clone.python("-c", "from importlinter.cli import lint_imports_command as check; check()", cwd=clone.tree)


def test_a_pass(clone: Clone) -> None:
    clone.follow("add-a-pass.md")
    assert "1 passed" in clone.tests("tests/instrument/test_dropout.py")
