"""Whether what a graph computes can be held: told by its shapes, before any engine takes the memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx
from onnx import ModelProto, helper

from testbed.core.process.resources import require_memory
from testbed.instrument.shapes import input_shape, model_input

_SHAPE = 64  # numbers of a tensor that may be a shape


def check_memory(proto: ModelProto, file: str, batch: int = 1) -> None:
    """Raises UsageError, with its name, for a tensor that does not fit in memory for so many images.

    A file of a few bytes can ask for any amount: by the shape of an Expand, a ConstantOfShape, a Range. What shape
    inference does not see through is left to the engine.
    """
    fix = "export the model without it, or for smaller images" if batch == 1 else "set a smaller engine.batch"
    images = "" if batch == 1 else f" of {batch} images"
    for name, held in _sizes(proto):
        require_memory(held * batch, f"{file}: its tensor {name!r}{images}", fix)


def _sizes(proto: ModelProto) -> Iterator[tuple[str, int]]:
    """Tensors of known shape, and their bytes for one image."""
    sketch = ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions)
    graph = sketch.graph
    graph.name = "sketch"
    graph.node.extend(proto.graph.node)
    image = graph.input.add()
    image.CopyFrom(model_input(proto))
    for dim, size in zip(image.type.tensor_type.shape.dim, (1, *input_shape(proto)), strict=True):
        dim.dim_value = size
    for tensor in proto.graph.initializer:
        if math.prod(tensor.dims) <= _SHAPE:
            graph.initializer.add().CopyFrom(tensor)
        else:  # its numbers say nothing of any shape
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    graph.output.extend(helper.make_empty_tensor_value_info(value.name) for value in proto.graph.output)
    try:
        inferred = onnx.shape_inference.infer_shapes(sketch, data_prop=True)
    except Exception:  # of several types: graphs it does not understand are told where they are run
        return
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        kind = value.type.tensor_type
        sizes = [dim.dim_value for dim in kind.shape.dim]
        if all(size > 0 for size in sizes) and kind.elem_type in helper.get_all_tensor_dtypes():
            yield value.name, math.prod(sizes) * (helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize or 1)
