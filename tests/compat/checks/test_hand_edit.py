from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from testbed.compat.checks.hand_edit import with_element
from testbed.compat.checks.unoptimised import Unoptimised


def test_one_element_is_replaced_for_every_use_and_no_other() -> None:
    x, y, z = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 2]) for name in "xyz")
    nodes = [helper.make_node("Neg", ["x"], ["y"]), helper.make_node("Add", ["y", "y"], ["z"])]
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [z, y]), opset_imports=opsets, ir_version=10)
    rows = np.array([[1, 2], [3, 4]], np.float32)
    outputs = Unoptimised(with_element(model, "y", 1, np.array([7], np.float32))).run({"x": rows})
    assert outputs["y"].tolist() == [[-1, 7], [-3, -4]]
    assert outputs["z"].tolist() == [[-2, 14], [-6, -8]]
    with pytest.raises(ValueError, match="no node computes 'w'"):
        with_element(model, "w", 0, np.zeros(1, np.float32))
