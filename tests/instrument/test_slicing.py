"""What computes a tensor, and what depends on one, on a small graph with a branch that leads nowhere."""

from __future__ import annotations

import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from testbed.instrument.slicing import backward_slice, descendants


@pytest.fixture
def model() -> ModelProto:
    """x -> a -> b -> y, a + w -> c, and d that nothing needs."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Exp", ["a"], ["b"]),
        helper.make_node("Add", ["a", "w"], ["c"]),
        helper.make_node("Neg", ["x"], ["d"]),
        helper.make_node("Mul", ["b", "c"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    made = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], [weight]))
    onnx.checker.check_model(made)
    return made


def test_only_what_the_outputs_need_is_taken_in_execution_order(model: ModelProto) -> None:
    nodes, needed = backward_slice(model, ["y"])
    assert [node.output[0] for node in nodes] == ["a", "b", "c", "y"]
    assert needed == {"x", "a", "b", "w", "c", "y"}


def test_it_stops_at_what_is_given(model: ModelProto) -> None:
    nodes, needed = backward_slice(model, ["y"], given=["a"])
    assert [node.output[0] for node in nodes] == ["b", "c", "y"]
    assert "x" not in needed


def test_descendants_are_everything_after_a_tensor_but_itself(model: ModelProto) -> None:
    assert descendants(model, "a") == {"b", "c", "y"}
    assert descendants(model, "y") == set()
