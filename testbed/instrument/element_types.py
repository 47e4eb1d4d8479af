"""The element type of every tensor of a file, as ONNX infers it or, of other domains' operators, ONNX Runtime."""

from __future__ import annotations

import onnx
from onnx import ModelProto, helper

from testbed.core.errors import EngineError, TestbedError
from testbed.instrument.skeleton import skeleton


def element_types(proto: ModelProto) -> dict[str, int]:
    """Element type of every tensor that has one."""
    bare = _typed_by_the_engine(skeleton(proto))
    try:
        typed = onnx.shape_inference.infer_shapes(bare)
    except Exception as error:  # onnx's own error types differ by version
        raise TestbedError(f"the ONNX graph is not valid: {str(error).strip().splitlines()[0]}") from error
    values = (*typed.graph.value_info, *typed.graph.output, *typed.graph.input)
    return {v.name: v.type.tensor_type.elem_type for v in values if v.type.HasField("tensor_type")}


def _typed_by_the_engine(proto: ModelProto) -> ModelProto:
    """Adds to the model the element types of what operators give that ONNX does not know, as ONNX Runtime has them."""
    known = {value.name for value in (*proto.graph.value_info, *proto.graph.output)}
    foreign = [node for node in proto.graph.node if node.domain not in ("", "ai.onnx")]
    names = [name for node in foreign for name in node.output if name and name not in known]
    if not names:
        return proto
    from testbed.engines.onnxruntime import cpu

    try:
        types = cpu.element_types(proto, names)
    except EngineError as error:
        domains = ", ".join(sorted({node.domain for node in foreign}))
        raise TestbedError(
            f"it has operators of {domains}, and ONNX Runtime does not take them ({error}); export it in ONNX's own operators"
        ) from error
    proto.graph.value_info.extend(
        helper.make_tensor_value_info(name, element, None) for name, element in types.items() if element
    )
    return proto
