"""What ONNX Runtime runs and ONNX's rules forbid is taken, and computes the same; what is not mended is told truly."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from testbed.core.errors import EngineError, TestbedError
from testbed.engines.runner import EngineRequest, open_engine
from testbed.instrument.adopt.file import adopt

IMAGES = np.random.default_rng(4).standard_normal((3, 4)).astype(np.float32)
WEIGHT = np.random.default_rng(5).standard_normal((4, 2)).astype(np.float32)


def small() -> ModelProto:
    """x (batch, 4) -> MatMul -> Relu -> y (batch, 2)."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph(nodes, "small", [x], [y], [numpy_helper.from_array(WEIGHT, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def reverse_nodes(proto: ModelProto) -> None:
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes[::-1])


def use_foreign_operator(proto: ModelProto) -> None:
    proto.graph.node[1].CopyFrom(helper.make_node("QuickGelu", ["h"], ["y"], domain="com.microsoft", alpha=1.0))


def repeat_metadata(proto: ModelProto) -> None:
    for value in ("first", "second"):
        proto.metadata_props.add(key="author", value=value)


def repeat_weight(proto: ModelProto) -> None:
    superseded = numpy_helper.from_array(np.zeros((4, 2), np.float32), "w")
    proto.graph.initializer.insert(0, superseded)


def list_weight_as_input(proto: ModelProto) -> None:
    proto.graph.input.append(onnx.ValueInfoProto(name="w"))
    proto.graph.input[-1].type.tensor_type.elem_type = TensorProto.FLOAT


RULES: dict[str, Callable[[ModelProto], Any]] = {
    "its nodes are put in the order in which they are computed": reverse_nodes,
    "its graph is given a name": lambda proto: proto.graph.ClearField("name"),
    "operators of com.microsoft are given a version, 1": use_foreign_operator,
    "of metadata that is there twice, the last is kept": repeat_metadata,
    "of 1 weights stored twice, the last is kept, as ONNX Runtime does": repeat_weight,
    "types that the file leaves out are filled in (w)": list_weight_as_input,
    "types that the file leaves out are filled in (y)": lambda proto: proto.graph.output[0].ClearField("type"),
}


def computed(model: bytes) -> NDArray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    found: NDArray = ort.InferenceSession(model, options).run(["y"], {"x": IMAGES})[0]
    return found


def refused_by_the_checker(proto: ModelProto) -> bool:
    try:
        checker.check_model(proto)
    except checker.ValidationError:
        return True
    return False


@pytest.mark.parametrize("told", RULES)
def test_a_file_that_runs_and_breaks_a_rule_is_written_as_the_rule_asks(tmp_path: Path, told: str) -> None:
    broken = small()
    RULES[told](broken)
    assert refused_by_the_checker(broken)
    (tmp_path / "broken.onnx").write_bytes(broken.SerializeToString())
    adopted = adopt(tmp_path / "broken.onnx")
    assert adopted.changes == (told,)
    assert not refused_by_the_checker(onnx.load_from_string(adopted.plain))
    np.testing.assert_array_equal(computed(adopted.plain), computed(broken.SerializeToString()))


def test_several_at_once(tmp_path: Path) -> None:
    broken = small()
    for rule in (reverse_nodes, repeat_metadata, repeat_weight):
        rule(broken)
    (tmp_path / "broken.onnx").write_bytes(broken.SerializeToString())
    adopted = adopt(tmp_path / "broken.onnx")
    assert len(adopted.changes) == 3
    np.testing.assert_array_equal(computed(adopted.plain), computed(small().SerializeToString()))
    assert {entry.key: entry.value for entry in onnx.load_from_string(adopted.plain).metadata_props} == {
        "author": "second"
    }


def test_another_broken_rule_is_told_with_what_the_engine_says(tmp_path: Path) -> None:
    runs = small()
    runs.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "one"))
    constant = helper.make_node("Constant", [], ["one"], value=numpy_helper.from_array(np.ones(2, np.float32)))
    runs.graph.node.extend([constant, deepcopy(constant)])
    fails = small()
    fails.graph.node[0].attribute.append(helper.make_attribute("transposed", 1))
    for proto, verdict in ((runs, "ONNX Runtime runs it all the same"), (fails, "ONNX Runtime refuses it, too")):
        (tmp_path / "broken.onnx").write_bytes(proto.SerializeToString())
        with pytest.raises(TestbedError, match=f"is not valid ONNX: .*; {verdict}.*: export it again$"):
            adopt(tmp_path / "broken.onnx")


def test_what_onnx_runtime_says_is_told_without_the_place_in_its_source() -> None:
    proto = small()
    proto.ir_version = 99
    with pytest.raises(EngineError) as told:
        open_engine("ort-cpu", EngineRequest(proto.SerializeToString(), "0" * 64, "0" * 16))
    message = str(told.value)
    assert message.startswith("ONNX Runtime cannot build this model: Unsupported model IR version: 99"), message
