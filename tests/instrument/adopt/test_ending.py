"""A file that gives probabilities is judged by its logits. Oracle: the softmax of the cut file is what the file gave."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from testbed.core.errors import UsageError
from testbed.instrument.adopt.ending import check_logits, with_logits
from testbed.instrument.adopt.outputs import with_logits_alone

X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((4, 5)).astype(np.float32)


def node(op: str, source: str, target: str, *more: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op, [source, *more], [target], **attributes)


def model(*nodes: NodeProto, output_type: int = TensorProto.FLOAT, **weights: NDArray) -> ModelProto:
    """x (b, 4), multiplied by W to z (b, 5), then ``nodes``, which end in y."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 4])
    y = helper.make_tensor_value_info("y", output_type, ["b", 5])
    stored = [numpy_helper.from_array(array, name) for name, array in ({"w": W} | weights).items()]
    graph = helper.make_graph([node("MatMul", "x", "z", "w"), *nodes], "probabilities", [x], [y], stored)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(made)
    return made


ROW, SCALE, ZERO = np.array([0, 5]), np.array(1 / 255, np.float32), np.array(0, np.uint8)
ENDINGS: dict[str, ModelProto] = {
    "Softmax": model(node("Softmax", "z", "y")),
    "Softmax, then Identity and Cast": model(
        node("Softmax", "z", "s", axis=1), node("Identity", "s", "i"), node("Cast", "i", "y", to=TensorProto.FLOAT)
    ),
    "of 16 bits": model(
        node("Cast", "z", "half", to=TensorProto.FLOAT16),
        node("Softmax", "half", "s"),
        node("Cast", "s", "y", to=TensorProto.FLOAT),
    ),
    "Softmax over another axis, turned back": model(
        node("Unsqueeze", "z", "u", "two"),
        node("Softmax", "u", "s", axis=1),
        node("Squeeze", "s", "y", "two"),
        two=np.array([2]),
    ),
    "Softmax and Reshape": model(node("Softmax", "z", "s"), node("Reshape", "s", "y", "row"), row=ROW),
    "LogSoftmax": model(node("LogSoftmax", "z", "y")),
    "Log of Softmax": model(node("Softmax", "z", "s"), node("Log", "s", "y")),
    "quantised": model(
        node("Softmax", "z", "s"),
        node("QuantizeLinear", "s", "q", "scale", "zero"),
        node("DequantizeLinear", "q", "y", "scale", "zero"),
        scale=SCALE,
        zero=ZERO,
    ),
    "a temperature": model(node("Div", "z", "t", "two"), node("Softmax", "t", "y"), two=np.array(2, np.float32)),
}


def outputs(session: Any, proto: ModelProto) -> NDArray:
    (found,) = session(proto.SerializeToString())({"x": X}).values()
    return np.asarray(found, np.float32)


@pytest.mark.parametrize("name", ENDINGS)
def test_a_softmax_at_the_end_is_cut_and_the_logits_are_left(session: Any, name: str) -> None:
    proto = ENDINGS[name]
    cut, told = with_logits(proto, "vit.onnx")
    assert "which is cut" in told
    onnx.checker.check_model(cut, full_check=True)
    assert not {"Softmax", "LogSoftmax", "QuantizeLinear"} & {n.op_type for n in cut.graph.node}
    logits = X @ W / (2 if name == "a temperature" else 1)
    np.testing.assert_allclose(outputs(session, cut), logits, rtol=0, atol=1e-2 if name == "of 16 bits" else 1e-5)


def test_a_file_that_ends_in_logits_stays_what_it_is() -> None:
    proto = model(node("Softmax", "z", "s"), node("Mul", "s", "y", "z"))
    assert with_logits(proto, "vit.onnx") == (proto, "")


@pytest.mark.parametrize("op", ["Sigmoid", "HardSigmoid"])
def test_independent_probabilities_are_refused(op: str) -> None:
    proto = model(node(op, "z", "s"), node("Identity", "s", "y"))
    with pytest.raises(UsageError, match=f"^vit.onnx ends in {op}: independent probabilities.*; export the logits"):
        with_logits(proto, "vit.onnx")


def test_a_softmax_over_the_batch_is_refused() -> None:
    with pytest.raises(UsageError, match="not over its classes alone"):
        with_logits(model(node("Softmax", "z", "y", axis=0)), "vit.onnx")


@pytest.mark.parametrize(
    "nodes",
    [
        (node("ArgMax", "z", "y", axis=0, keepdims=0),),
        (node("ArgMax", "z", "y", axis=0, keepdims=1),),
        (node("Unsqueeze", "z", "u", "two"), node("ArgMax", "u", "y", axis=2, keepdims=0)),
        (node("Concat", "z", "u", "z", axis=0), node("ArgMax", "u", "y", axis=1, keepdims=0)),
        (node("Concat", "z", "u", "z", axis=1), node("ArgMax", "u", "y", axis=1, keepdims=0, select_last_index=1)),
    ],
)
def test_a_class_number_that_is_not_of_the_largest_of_all_classes_is_refused(nodes: tuple[NodeProto, ...]) -> None:
    """Over the batch, over an axis of one, of other rows, of the last of two that are as large."""
    proto = model(*nodes, output_type=TensorProto.INT64, two=np.array([2]))
    with pytest.raises(
        UsageError, match=r"vit\.onnx ends in ArgMax, though not over its classes alone; export the logits"
    ):
        with_logits_alone(proto, "vit.onnx", 5)


def test_probabilities_of_another_origin_are_told_by_their_values() -> None:
    generator = np.random.default_rng(0)
    shares = generator.dirichlet(np.ones(10), 50).astype(np.float16).astype(np.float32)
    with pytest.raises(UsageError, match=r"probabilities already .* export the logits"):
        check_logits(shares, "vit.onnx")
    for scaled, told in ((100 * shares, "sums to 100"), (shares + np.float32(0.01), "sums to 1.1")):
        with pytest.raises(UsageError, match=f"probabilities already .*every row {told}"):
            check_logits(scaled, "vit.onnx")
    assert "independent probabilities" in check_logits(generator.random((50, 10), np.float32), "vit.onnx")
    alike = np.tile(4 * generator.random(10, np.float32), (50, 1))  # of a model that says the same of every image
    for logits in (np.log(shares + 1e-3), 4 * generator.random((50, 10), np.float32), alike, alike[:1]):
        assert check_logits(logits, "vit.onnx") == ""
