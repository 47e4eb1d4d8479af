"""Every example runs as its README says, in an empty folder, and prints what it promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDERS = sorted(path for path in EXAMPLES.iterdir() if path.is_dir())
PRINTED = {
    "01_first_campaign": "block.1.attn.softmax[5], bit 30",
    "02_your_timm_model": "layernorm",
    "03_your_onnx_file": "test accuracy",
    "04_adaptive_stop": "uniform sampling would need",
    "05_tolerance_sweep": "combinations of tier and tolerance",
    "06_cluster": "activation flip",
}
NOTEBOOK = """
import sys, nbformat, nbclient
book = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(book, timeout=250, kernel_name="python3").execute()
print(nbformat.writes(book))
"""


def run_in(folder: Path, *command: str) -> str:
    """What the command prints. It finds `python` and `testbed` as in an activated environment."""
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": paths, "PYTHONPATH": os.pathsep.join([str(folder), os.environ["PYTHONPATH"]])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_each_has_a_readme_and_is_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    for folder in FOLDERS:
        assert f"[{folder.name}]({folder.name}/README.md)" in listed
        text = (folder / "README.md").read_text()
        (script,) = (path for path in folder.iterdir() if path.name in ("run.py", "run.sh", "campaign.ipynb"))
        assert f"examples/{folder.name}/{script.name}" in text
    assert {folder.name for folder in FOLDERS} == {*PRINTED, "07_notebook"}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/*.py")) + sorted(EXAMPLES.glob("*/*.ipynb")), ids=str)
def test_they_import_nothing_internal(path: Path) -> None:
    text = path.read_text()
    imported = [line for line in text.splitlines() if "testbed." in line and "import" in line]
    assert all("from testbed.data import" in line for line in imported)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == "01_first_campaign" else pytest.mark.slow) for n in PRINTED]
)
def test_it_runs(name: str, tmp_path: Path) -> None:
    script = next(path for path in (EXAMPLES / name).iterdir() if path.name in ("run.py", "run.sh"))
    interpreter = sys.executable if script.suffix == ".py" else "sh"
    if "timm" in name:  # where PyTorch and torchvision are of two builds, timm does not import without this
        (tmp_path / "sitecustomize.py").write_text("import testbed.data.torchvision_import\n")
    printed = run_in(tmp_path, interpreter, str(script))
    assert PRINTED[name] in " ".join(printed.split())
    assert (tmp_path / "runs" / name / "report.html").is_file()


@pytest.mark.slow
def test_the_notebook_runs_and_shows_tables_and_a_figure(tmp_path: Path) -> None:
    book = json.loads(
        run_in(tmp_path, sys.executable, "-c", NOTEBOOK, str(EXAMPLES / "07_notebook" / "campaign.ipynb"))
    )
    outputs = [output for cell in book["cells"] for output in cell.get("outputs", ())]
    shown = [output["data"] for output in outputs if "data" in output]
    assert sum("text/html" in data for data in shown) == 3  # the plan, the run, the rates
    assert sum("image/svg+xml" in data for data in shown) == 1
