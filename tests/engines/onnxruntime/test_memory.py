"""Memory of engines on large models, whole and with weights beside the graph: what a process of its own takes for itself."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from testbed.instrument.lean.apart import Apart, data_file
from testbed.instrument.lean.read import read_model

WIDTH, LAYERS = 2048, 10
WEIGHTS = LAYERS * WIDTH * WIDTH * 4  # bytes: as many as make it worthwhile to give memory back
SCRIPT = """
import json, sys
from pathlib import Path
from testbed.engines.runner import open_engine
from testbed.engines.weights import request_from

def taken():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:"))

request = request_from(Path(sys.argv[1]), "id", mutable_weights=sys.argv[2] == "True")
open_engine("ort-cpu", request).close()  # what is taken once: libraries, pools
before = taken()
with open_engine("ort-cpu", request):
    opened = taken()
print(json.dumps({"open": opened - before, "closed": taken() - before}))
"""


def products() -> ModelProto:
    """Matrix products one after the other, of random weights."""
    rng = np.random.default_rng(0)
    names = [f"h{number}" for number in range(LAYERS + 1)]
    nodes = [helper.make_node("MatMul", [x, f"w{x}"], [y]) for x, y in pairwise(names)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", WIDTH]) for name in (names[0], names[-1]))
    weights = [
        onnx.numpy_helper.from_array(rng.standard_normal((WIDTH, WIDTH), np.float32), f"w{name}") for name in names[:-1]
    ]
    graph = helper.make_graph(nodes, "products", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model in both forms: whole.onnx, and apart.onnx with its weights beside it."""
    folder = tmp_path_factory.mktemp("large")
    onnx.save(products(), folder / "whole.onnx")
    file = folder / "apart.onnx"
    apart = Apart.of(read_model(folder / "whole.onnx")[0], data_file(file.name))
    apart.write_weights(folder / data_file(file.name))
    file.write_bytes(apart.serialised())
    return folder


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is told by Linux alone")
@pytest.mark.parametrize("mutable", [False, True])
@pytest.mark.parametrize("name", ["whole.onnx", "apart.onnx"])
def test_weights_are_held_once_and_given_back(name: str, mutable: bool, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder / name), str(mutable)], capture_output=True, text=True, check=True
    )
    taken = json.loads(done.stdout)
    assert 0.9 * WEIGHTS < taken["open"] < 1.5 * WEIGHTS
    assert taken["closed"] < 0.2 * WEIGHTS
