"""Libraries that write and send things by themselves do neither once the testbed is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.core.process.telemetry import ONNXRUNTIME

ONLY_IMPORTED = "import {library}"
USED = """
from testbed.cli.main import cli
from testbed.engines.runner import EngineRequest, open_engine
import numpy as np
from onnx import TensorProto, helper

x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "probe", [x], [y])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
with open_engine("{backend}", EngineRequest(model, "", "")) as runner:
    assert runner.run({{"x": np.ones(2, np.float32)}})["y"].tolist() == [-1, -1]
"""


def files_after(code: str, folder: Path) -> set[str]:
    """What an interpreter leaves in its home and temporary folder."""
    for name in ("home", "tmp"):
        (folder / name).mkdir(parents=True)
    unset = (ONNXRUNTIME, "CI", "XDG_CACHE_HOME", "TESTBED_CACHE")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("library", "backend"), [("onnxruntime", "ort-cpu"), ("openvino", "openvino")])
def test_an_engine_leaves_no_file_behind(library: str, backend: str, tmp_path: Path) -> None:
    pytest.importorskip(library)
    assert files_after(USED.format(backend=backend), tmp_path / "ours") == set()
    if not files_after(ONLY_IMPORTED.format(library=library), tmp_path / "alone"):
        pytest.skip(f"this {library} writes nothing by itself: nothing was shown")


def test_one_that_was_loaded_before_is_told_to_send_nothing() -> None:
    code = (
        "import onnxruntime\ncalls = []\n"
        "onnxruntime.disable_telemetry_events = lambda: calls.append(1)\n"
        "import testbed.engines.onnxruntime.cpu\nassert calls == [1]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(("asked", "kept"), [(None, "1"), ("0", "0")])
def test_who_wants_it_can_have_it(asked: str | None, kept: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != ONNXRUNTIME}
    environment |= {} if asked is None else {ONNXRUNTIME: asked}
    code = f"import os, testbed; print(os.environ['{ONNXRUNTIME}'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [kept]
