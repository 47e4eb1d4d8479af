"""Operations of an ONNX file for one image: multiply-accumulates of its products, and one for every element elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from onnx import ModelProto, NodeProto, shape_inference

from testbed.core.errors import TestbedError

_PRODUCTS = ("MatMul", "Gemm", "MatMulInteger", "QLinearMatMul")
_CONVOLUTIONS = ("Conv", "ConvInteger", "QLinearConv")
_MOVES = (
    *("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Concat", "Slice", "Split", "Gather"),
    *("Expand", "Shape", "Constant", "ConstantOfShape", "Range"),
)
"""They compute nothing: most engines move no memory for them either."""


@dataclass(frozen=True)
class Operations:
    """``macs``, ``elements``: node -> multiply-accumulates, and elements that it computes or takes together otherwise. A node
    is named by its first output."""

    macs: dict[str, int]
    elements: dict[str, int]

    @property
    def total_macs(self) -> int:
        """The multiply-accumulates of all nodes."""
        return sum(self.macs.values())

    def without(self, plain: Operations) -> dict[str, int]:
        """MACs and elements of each node that another file does not have."""
        known = plain.macs.keys() | plain.elements.keys()
        return {name: count for name, count in (self.macs | self.elements).items() if name not in known}


def operations_of(proto: ModelProto, measured: Mapping[str, tuple[int, ...]] | None = None) -> Operations:
    """Count from the shapes that inference gives, a batch being one image. measured: further ones. Raises TestbedError for a
    node of which the shape isn't known."""
    shapes = _shapes(proto) | dict(measured or {})
    macs, elements = {}, {}
    for node in proto.graph.node:
        if node.op_type in (*_PRODUCTS, *_CONVOLUTIONS):
            macs[node.output[0]] = _macs(node, shapes)
        elif node.op_type not in _MOVES:
            size = node.input[0] if node.op_type.startswith("Reduce") else node.output[0]
            elements[node.output[0]] = prod(_shape(shapes, size))
    return Operations(macs, elements)


def _macs(node: NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    made = prod(_shape(shapes, node.output[0]))
    if node.op_type in _CONVOLUTIONS:
        weight = node.input[3] if node.op_type == "QLinearConv" else node.input[1]
        return made * prod(_shape(shapes, weight)[1:])
    turned = any(setting.name == "transA" and setting.i for setting in node.attribute)
    return made * _shape(shapes, node.input[0])[0 if turned else -1]


def _shape(shapes: dict[str, tuple[int, ...]], tensor: str) -> tuple[int, ...]:
    if tensor not in shapes:
        raise TestbedError(f"the shape of {tensor!r} isn't known: its operations can't be counted; use --cost latency")
    return shapes[tensor]


def _shapes(proto: ModelProto) -> dict[str, tuple[int, ...]]:
    """Tensor -> shape; an axis without a number is the batch, of one image."""
    single = ModelProto()
    single.CopyFrom(proto)
    for value in single.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = 1
    del single.graph.value_info[:]
    for value in single.graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = shape_inference.infer_shapes(single, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        if value.type.tensor_type.HasField("shape"):
            shapes[value.name] = tuple(dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim)
    return shapes
