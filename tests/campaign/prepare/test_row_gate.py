"""Rows of a batch that influence each other are found, whatever makes them do so, and files with such rows run alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnxruntime.quantization import quantize_dynamic

from testbed.campaign.pipeline import run_campaign
from testbed.campaign.prepare.row_gate import LOUD, PLACE, input_influence
from testbed.campaign.spec.campaign import parse_spec
from testbed.campaign.summary.record import Summary
from testbed.campaign.work.worker_setup import WorkerSetup
from testbed.core.errors import GateFailed
from testbed.export.onnx import export_onnx
from testbed.models.config import ViTConfig
from testbed.models.vit import ViT

IMAGES = np.random.default_rng(5).normal(size=(8, 3)).astype(np.float32)


def session_of(*nodes: onnx.NodeProto) -> Callable[[NDArray[np.float32]], NDArray]:
    """x (B, 3) -> y."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 3]) for name in ("x", "y"))
    graph = helper.make_graph(list(nodes), "rows", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"x": images})[0]


SOFTMAX_OF_ROW = [helper.make_node("Softmax", ["x"], ["y"], axis=1)]
SOFTMAX_OF_BATCH = [helper.make_node("Softmax", ["x"], ["y"], axis=0)]
DYNAMIC = [
    helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
    helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
]


@pytest.mark.parametrize(("nodes", "why"), [(SOFTMAX_OF_ROW, ""), (SOFTMAX_OF_BATCH, PLACE), (DYNAMIC, LOUD)])
def test_what_is_taken_from_the_whole_batch_is_found(nodes: list[onnx.NodeProto], why: str) -> None:
    """A scale of the whole batch is the same in every order: only a loud neighbour shows it. (The last bits of a sum
    depend on the order, though.)"""
    assert input_influence(session_of(*nodes), IMAGES, seed=1) == why


def test_a_batch_of_one_has_no_company() -> None:
    assert input_influence(session_of(*SOFTMAX_OF_BATCH), IMAGES[:1], seed=1) == ""


def test_an_engine_that_forgets_nothing_is_not_deterministic() -> None:
    runs: list[int] = []

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        runs.append(1)
        return images + np.float32(len(runs))

    with pytest.raises(GateFailed, match="run twice, gives other bits"):
        input_influence(run, IMAGES, seed=1)


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ViT for the digits, quantised dynamically by ONNX Runtime: one scale per batch before each product."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    base = tmp_path_factory.mktemp("dynamic")
    config = ViTConfig(image=8, patch=4, channels=1, width=16, heads=(2,), mlp=(24,), classes=10, head_width=8)
    export_onnx(ViT(config).eval(), torch.zeros(2, 1, 8, 8), base / "plain.onnx", input_name="image")
    quantize_dynamic(base / "plain.onnx", base / "dynamic.onnx")
    assert any(node.op_type == "DynamicQuantizeLinear" for node in onnx.load(base / "dynamic.onnx").graph.node)
    return base / "dynamic.onnx"


def campaign(file: Path, batch: int, folder: Path, images: int) -> tuple[Summary, Any]:
    values = {
        "name": "dynamic",
        "seed": 3,
        "model": {"onnx": str(file)},
        "data": {"name": "digits"},
        "tiers": {"edges": [1.0], "images": [images]},
        "engine": {"batch": batch},
        "gates": {"zero_fault_rows": 32, "allow_chance_accuracy": True},
        "faults": [
            {"target": "model", "where": "activation", "sites": ["block.0.*"], "ops": ["flip"], "bits": [22, 27, 30, 31],
             "per_stratum": 2},
        ],
    }  # fmt: skip
    summary = run_campaign(parse_spec(values), folder, worker_setup=WorkerSetup(0))
    columns = ["site", "index", "bit", "image_id", "outcome", "max_abs_diff"]
    return summary, pq.read_table(folder / "results.parquet", columns=columns).to_pandas()


@pytest.mark.parametrize("images", [1, 5])
def test_a_dynamically_quantised_file_has_the_same_outcomes_at_any_batch_that_is_asked_for(
    dynamic: Path, tmp_path: Path, images: int
) -> None:
    """With one image too, where every fault-free row is the same."""
    (eight, rows), (one, alone) = (campaign(dynamic, b, tmp_path / str(b), images) for b in (8, 1))
    assert rows.equals(alone)
    assert eight.engine.batch == one.engine.batch == 1
    assert eight.notes == [f"batch 1 instead of 8: {LOUD}"]
    assert one.notes == []
