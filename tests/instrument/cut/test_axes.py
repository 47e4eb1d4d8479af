"""The rules of which row hangs on which, each against the operator itself as an engine computes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from testbed.instrument.adopt.file import adopt
from testbed.instrument.cut.axes import sources
from testbed.instrument.cut.flow import Flow
from testbed.instrument.cut.tokens import rowwise
from tests.support.exporters import randomised, written
from tests.support.libraries import timm_model

SHAPE = (3, 4, 2)


def one(op: str, constants: dict[str, NDArray] | None = None, opset: int = 20, **attributes: Any) -> ModelProto:
    """z = op(x, constants), x of ``SHAPE`` per image."""
    constants = constants or {}
    return graph([helper.make_node(op, ["x", *constants], ["z"], **attributes)], constants, opset)


def graph(nodes: list[onnx.NodeProto], constants: dict[str, NDArray], opset: int = 20) -> ModelProto:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *SHAPE])]
    outputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    stored = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    made = helper.make_graph(nodes, "g", inputs, outputs, stored)
    proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return onnx.shape_inference.infer_shapes(proto)


def ints(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


OPERATORS = {
    "add": one("Add", {"c": np.ones((3, 1, 2), np.float32)}),
    "add per token": one("Add", {"c": np.ones((4, 2), np.float32)}),
    "gelu": one("Gelu"),
    "matmul": one("MatMul", {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}),
    "softmax": one("Softmax", axis=-1),
    "softmax over tokens": one("Softmax", axis=2),
    "softmax of old": one("Softmax", opset=12, axis=2),
    "layer norm": one("LayerNormalization", {"g": np.ones(2, np.float32)}, axis=-1),
    "layer norm of two axes": one("LayerNormalization", {"g": np.ones((4, 2), np.float32)}, axis=2),
    "transpose": one("Transpose", perm=[1, 0, 3, 2]),
    "join": one("Reshape", {"s": ints(-1, 12, 2)}),
    "split": one("Reshape", {"s": ints(-1, 3, 2, 2, 2)}),
    "join the last": one("Reshape", {"s": ints(-1, 3, 8)}),
    "gather one": one("Gather", {"i": np.array(1, np.int64)}, axis=1),
    "gather two": one("Gather", {"i": ints(2, 0)}, axis=2),
    "slice": one("Slice", {"b": ints(1), "e": ints(3), "a": ints(2)}),
    "mean": one("ReduceMean", {"a": ints(-1)}, keepdims=1),
    "mean of tokens": one("ReduceMean", {"a": ints(2)}, keepdims=1),
    "mean and gone": one("ReduceMean", {"a": ints(3)}, keepdims=0),
    "unsqueeze": one("Unsqueeze", {"a": ints(2)}),
    "flatten": one("Flatten", axis=2),
    "running sum": one("CumSum", {"a": np.array(2, np.int64)}),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_a_row_of_the_output_hangs_on_no_other_row_than_the_rule_says(name: str, session: Any) -> None:
    flow = Flow.of(OPERATORS[name])
    run = session(OPERATORS[name].SerializeToString(), optimised=False)
    example = np.random.default_rng(0).standard_normal((2, *SHAPE)).astype(np.float32)
    before = run({"x": example})["z"]
    for axis in range(before.ndim):
        own = sources(flow, flow.nodes[-1], axis)["x"]
        if own is None:
            continue
        assert rowwise(flow, range(len(flow.nodes)), "x", own)["z"] == axis
        for row in range(before.shape[axis]):
            disturbed = np.moveaxis(example.copy(), own, 0)
            disturbed[[i for i in range(len(disturbed)) if i != row]] += 10
            after = run({"x": np.moveaxis(disturbed, 0, own)})["z"]
            np.testing.assert_array_equal(np.take(after, row, axis), np.take(before, row, axis))


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("add", {0, 2}),  # the constant has rows of its own along axes 1 and 3
        ("add per token", {0, 1}),
        ("matmul", {0, 1, 2}),
        ("softmax over tokens", {0, 1, 3}),
        ("softmax of old", set()),
        ("layer norm of two axes", {0, 1}),
        ("transpose", {0, 1, 2, 3}),
        ("join the last", {0, 1}),
        ("gather one", {0, 1, 2}),
        ("running sum", set()),
    ],
)
def test_rules_say_all_that_can_be_said(name: str, axes: set[int]) -> None:
    flow = Flow.of(OPERATORS[name])
    found = {axis for axis in range(len(flow.shapes["z"])) if sources(flow, flow.nodes[-1], axis)["x"] is not None}
    assert found == axes


def test_a_product_of_two_takes_rows_of_one_and_all_of_the_other() -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["x", "turned"], ["z"]),
    ]
    flow = Flow.of(graph(nodes, {}))
    assert sources(flow, flow.nodes[-1], 2) == {"x": 2, "turned": None}
    assert sources(flow, flow.nodes[-1], 3) == {"x": None, "turned": 3}
    assert sources(flow, flow.nodes[-1], 1) == {"x": 1, "turned": 1}


@given(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=2, max_size=4), st.data())
def test_a_reshape_keeps_an_axis_only_if_its_rows_are_rows(dims: list[int], data: st.DataObject) -> None:
    size = int(np.prod(dims))
    other: list[int] = []
    while size > 1:
        other.append(data.draw(st.sampled_from([d for d in range(2, size + 1) if size % d == 0])))
        size //= other[-1]
    other = other or [1]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *dims])]
    outputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", *other])]
    stored = [numpy_helper.from_array(ints(-1, *other), "s")]
    node = helper.make_node("Reshape", ["x", "s"], ["z"])
    flow = Flow.of(helper.make_model(helper.make_graph([node], "g", inputs, outputs, stored)))
    before = np.arange(2 * int(np.prod(dims))).reshape(2, *dims)
    after = before.reshape(2, *other)
    for axis in range(after.ndim):
        own = sources(flow, flow.nodes[0], axis)["x"]
        if own is not None:
            assert after.shape[axis] == before.shape[own]
            for row in range(after.shape[axis]):
                np.testing.assert_array_equal(np.take(after, row, axis).flat, np.take(before, row, own).flat)


def test_an_image_whose_size_the_file_leaves_open_is_sized_by_its_weights(tmp_path: Path) -> None:
    every = {0: "batch_size", 1: "num_channels", 2: "height", 3: "width"}
    axes = {"images": every, "logits": {0: "batch_size"}}
    file = written(randomised(timm_model()), tmp_path / "vit.onnx", "torchscript", dynamic_axes=axes)
    assert Flow.of(onnx.load_from_string(adopt(file).plain)).per_image("images") == (3, 16, 16)
