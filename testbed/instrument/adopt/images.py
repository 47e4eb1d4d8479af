"""The input of a user's file as campaigns feed it: float32 images (B, C, H, W).

Files for deployment take what a camera or a decoder gives: bytes, the channels last, half precision, quantised numbers. What
turns the one into the other is put before the file's own first operator.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from testbed.core.errors import UsageError
from testbed.instrument.adopt.mend import inside, used_by
from testbed.instrument.shapes import inputs_of, model_input

PIXELS = "testbed.pixels"
"""Key of the metadata of a file that is fed pixels 0 to 255, as floats."""
_CHANNELS = (1, 3, 4)
_FLOATS: dict[int, str] = {
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
}
_WHOLE: dict[int, str] = {
    TensorProto.UINT8: "uint8",
    TensorProto.UINT16: "uint16",
    TensorProto.INT16: "int16",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
}
_STEM = "testbed/images"


def takes_pixels(proto: ModelProto) -> bool:
    """Whether an adopted file is fed pixels 0 to 255."""
    return any(entry.key == PIXELS for entry in proto.metadata_props)


def with_float_images(proto: ModelProto) -> list[str]:
    """Changes the model in place. Returns what was done, for people; empty where nothing was.

    Raises UsageError, with what to do, for several inputs and for one that is no batch of images.
    """
    changes = []
    if unused := _drop_unused_inputs(proto):
        changes.append(f"its inputs {', '.join(unused)}, which nothing takes, are dropped")
    taken = _images(proto)
    kind = taken.type.tensor_type
    element, dims = kind.elem_type, list(kind.shape.dim)
    nodes: list[NodeProto] = []
    if _is_channels_last(taken):
        changes.append("it takes its images channels last; they are turned")
        order = [dims[axis] for axis in (0, 3, 1, 2)]
        nodes.append(helper.make_node("Transpose", [""], [f"{_STEM}/turned"], perm=[0, 2, 3, 1]))
    else:
        order = dims
    if element in _FLOATS:
        changes.append(f"it takes {_FLOATS[element]} images; float32 ones are cast")
        nodes.append(_cast(element))
    elif element != TensorProto.FLOAT:
        how, change = _whole_numbers(proto, taken)
        nodes += how
        changes.append(change)
    if nodes:
        _put_before(proto, taken, nodes, order)
    return changes


def with_image_size(proto: ModelProto, size: int, name: str) -> str:
    """Fixes the height and width of images that are left open, in place. Returns what was done, for people; empty where nothing
    was. Raises UsageError where the model is of another size, or takes no images of channels, height and width."""
    dims = list(_images(proto).type.tensor_type.shape.dim)[1:]
    if len(dims) != 3:
        raise UsageError(f"{name} takes no images of channels, height and width; leave the image size out")
    stated = [dim.dim_value for dim in dims[1:]]
    if any(known not in (0, size) for known in stated):
        shape = " x ".join(str(known) if known else "open" for known in stated)
        raise UsageError(
            f"{name} takes images of {shape}, not {size} x {size}; leave the image size out, or export it again"
        )
    if all(stated):
        return ""
    for dim in dims[1:]:
        dim.dim_value = size
    return f"its open image size is {size} x {size}"


def _drop_unused_inputs(proto: ModelProto) -> list[str]:
    """Inputs beside others that no node takes and that are no outputs."""
    graph = proto.graph
    inputs = inputs_of(proto)
    used = {name for node in graph.node for name in used_by(node)} | {value.name for value in graph.output}
    unused = [value.name for value in inputs if value.name not in used]
    if not unused or len(unused) == len(inputs):
        return []
    for value in [value for value in graph.input if value.name in unused]:
        graph.input.remove(value)
    return unused


def _images(proto: ModelProto) -> ValueInfoProto:
    """The one input, if it is a batch of tensors of numbers that can be images."""
    inputs = inputs_of(proto)
    if len(inputs) == 1:
        kind = inputs[0].type.tensor_type
        quantised = kind.elem_type == TensorProto.INT8 and _dequantised(proto, inputs[0].name) is not None
        if len(kind.shape.dim) > 1 and (kind.elem_type in (*_FLOATS, *_WHOLE) or quantised):
            return inputs[0]
    return model_input(proto)


def _is_channels_last(value: ValueInfoProto) -> bool:
    dims = value.type.tensor_type.shape.dim
    return len(dims) == 4 and dims[3].dim_value in _CHANNELS and dims[1].dim_value not in _CHANNELS


def _dequantised(proto: ModelProto, name: str) -> NodeProto | None:
    """The DequantizeLinear that is all that takes the input; None where there is none, or its numbers are not stored."""
    takers = [node for node in proto.graph.node if name in used_by(node)]
    stored = {tensor.name for tensor in proto.graph.initializer}
    if len(takers) == 1 and takers[0].op_type == "DequantizeLinear" and stored.issuperset(takers[0].input[1:]):
        return takers[0]
    return None


def _whole_numbers(proto: ModelProto, value: ValueInfoProto) -> tuple[list[NodeProto], str]:
    element = value.type.tensor_type.elem_type
    name = helper.tensor_dtype_to_string(element).removeprefix("TensorProto.").lower()
    taker = _dequantised(proto, value.name)
    if taker is not None:
        quantise = helper.make_node("QuantizeLinear", ["", *taker.input[1:]], [f"{_STEM}/quantised"])
        return [quantise], f"it takes images quantised to {name}; float32 ones are quantised as it asks"
    if len(value.type.tensor_type.shape.dim) != 4:
        raise UsageError(
            f"the model's input {value.name!r} is {name} and no images (B, C, H, W); export a model that takes images"
        )
    limits = {f"{_STEM}/least": 0, f"{_STEM}/most": 255}
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.array(number, np.float32), limit) for limit, number in limits.items()
    )
    helper.set_model_props(proto, {e.key: e.value for e in proto.metadata_props} | {PIXELS: "0..255"})
    nodes = [
        helper.make_node("Round", [""], [f"{_STEM}/rounded"]),
        helper.make_node("Clip", ["", *limits], [f"{_STEM}/clipped"]),
        _cast(element),
    ]
    return nodes, f"it takes {name} pixels; float32 ones from 0 to 255 are rounded to them"


def _cast(element: int) -> NodeProto:
    return helper.make_node("Cast", [""], [f"{_STEM}/cast"], to=element)


def _put_before(proto: ModelProto, taken: ValueInfoProto, nodes: Iterable[NodeProto], dims: list) -> None:
    """The nodes, each taking what the one before gives, between the input, which keeps its name, and its takers."""
    graph, last = proto.graph, taken.name
    names = {taken.name: f"{_STEM}/taken"}
    _rename(graph.node, names)
    chain = list(nodes)
    for node in chain:
        node.input[0] = last
        node.name = last = node.output[0]
    chain[-1].output[0] = names[taken.name]
    for position, node in enumerate(chain):
        graph.node.insert(position, node)
    shape = [type(dim).FromString(dim.SerializeToString()) for dim in dims]
    taken.type.tensor_type.elem_type = TensorProto.FLOAT
    del taken.type.tensor_type.shape.dim[:]
    taken.type.tensor_type.shape.dim.extend(shape)
    inner = helper.make_empty_tensor_value_info(names[taken.name])
    for value in [value for value in graph.value_info if value.name in (taken.name, inner.name)]:
        graph.value_info.remove(value)


def _rename(nodes: Iterable[NodeProto], names: dict[str, str]) -> None:
    """Operands, also of graphs inside nodes."""
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        for graph in inside(node):
            _rename(graph.node, names)
