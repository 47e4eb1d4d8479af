"""A model without its large weights: what its graph says can be asked of it in a few megabytes.

Shapes, types and the order of nodes do not depend on the numbers of large weights, which are a skeleton's further inputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

LARGE = 1 << 13  # numbers; shapes, scales and zero points have fewer


def is_large(tensor: TensorProto) -> bool:
    return math.prod(tensor.dims) > LARGE


def skeleton(proto: ModelProto) -> ModelProto:
    """The model with its large weights as inputs, behind its own; they are not copied."""
    bare = ModelProto(
        ir_version=proto.ir_version,
        opset_import=proto.opset_import,
        functions=proto.functions,
        metadata_props=proto.metadata_props,
    )
    graph, whole = bare.graph, proto.graph
    graph.name = whole.name
    graph.node.extend(whole.node)
    graph.input.extend(whole.input)
    graph.output.extend(whole.output)
    graph.value_info.extend(whole.value_info)
    graph.sparse_initializer.extend(whole.sparse_initializer)
    known = {value.name for value in whole.input}
    for tensor in whole.initializer:
        if not is_large(tensor):
            graph.initializer.add().CopyFrom(tensor)
        elif tensor.name not in known:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return bare


def empty_weights(proto: ModelProto) -> dict[str, NDArray]:
    """Zeros for a skeleton's further inputs. Memory that is read and never written is not taken."""
    return {
        tensor.name: np.zeros(tuple(tensor.dims), helper.tensor_dtype_to_np_dtype(_wide(tensor.data_type)))
        for tensor in proto.graph.initializer
        if is_large(tensor)
    }


def in_float32(proto: ModelProto) -> ModelProto:
    """The model with float32 in place of bfloat16, of which ONNX Runtime's CPU provider multiplies no matrices.

    ``proto`` itself where it has no bfloat16.
    """
    if not has_bfloat16(proto):
        return proto
    wide = ModelProto()
    wide.CopyFrom(proto)
    for tensor in _tensors(wide):
        if tensor.data_type == TensorProto.BFLOAT16:
            array = numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for node in wide.graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT
    for value in (*wide.graph.input, *wide.graph.output):
        value.type.tensor_type.elem_type = _wide(value.type.tensor_type.elem_type)
    del wide.graph.value_info[:]
    return wide


def _wide(element: int) -> int:
    return TensorProto.FLOAT if element == TensorProto.BFLOAT16 else element


def _tensors(proto: ModelProto) -> Iterator[TensorProto]:
    yield from proto.graph.initializer
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def has_bfloat16(proto: ModelProto) -> bool:
    """Whether some tensor of the model is of bfloat16."""
    values = (*proto.graph.input, *proto.graph.output)
    return any(tensor.data_type == TensorProto.BFLOAT16 for tensor in _tensors(proto)) or any(
        value.type.tensor_type.elem_type == TensorProto.BFLOAT16 for value in values
    )
