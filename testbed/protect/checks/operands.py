"""Operands of operators: weights as they are multiplied, and live tensors as elements of one that the batch leads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from testbed.core.arrays import Float64s, Int64s
from testbed.instrument.cut.flow import CannotCut
from testbed.instrument.cut.segments import model_of
from testbed.protect.checks.followed import SAME, is_led
from testbed.protect.graph import GraphEditor

_LARGEST = 2**22  # elements of one image's tensor


@dataclass(frozen=True)
class Operand:
    """``index``: of each element that is taken of one image, in the order in which it is taken, its place in ``source``, a
    tensor that the batch leads. shape: one image's source; way: what lies between source and what is taken."""

    source: str
    shape: tuple[int, ...]
    index: Int64s
    way: tuple[str, ...]

    def pulled_back(self, coefficients: Float64s) -> Float64s:
        """Coefficients of what is taken, one for each element or for the last axis, as those of ``source``: of its shape."""
        columns = self.index.reshape(-1, coefficients.size)
        flat = np.zeros(int(np.prod(self.shape)))
        np.add.at(flat, columns, np.broadcast_to(coefficients.reshape(-1), columns.shape))
        return flat.reshape(self.shape)


def operand(graph: GraphEditor, taken: str) -> Operand:
    """A live tensor as an operator takes it. Raises CannotCut where it is not laid out from one that the batch leads."""
    source, way = taken, []
    while not is_led(graph, source):
        node = graph.producer(source)
        if node is None or node.op_type not in SAME:
            raise CannotCut(f"{graph.named(taken)!r} is not led by the batch, and not laid out from what is")
        way.append(source)
        source = node.input[0]
    return Operand(source, graph.flow.per_image(source), laid_out(graph, source, taken), (*way,))


def laid_out(graph: GraphEditor, source: str, taken: str) -> Int64s:
    """Places of the elements of one image's ``taken``, in its order, in ``source``, a tensor that the batch leads and that
    it is laid out from. Raises CannotCut for a tensor of too many elements."""
    flow, shape = graph.flow, graph.flow.per_image(source)
    size = int(np.prod(shape))
    if size > _LARGEST:
        raise CannotCut(f"an image has {size:,} elements in {graph.named(source)!r}")
    index = np.arange(size, dtype=np.int64)
    if source == taken:
        return index
    nodes = [flow.nodes[at] for at in flow.between([source], [taken])]
    ends = [helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in (source, taken)]
    segment = model_of(flow, nodes, ends[:1], ends[1:], {})
    for node in segment.graph.node:
        if node.op_type == "Cast":  # places are kept as they are
            node.op_type = "Identity"
            del node.attribute[:]
    (moved,) = ReferenceEvaluator(segment).run(None, {source: index.reshape(1, *shape)})
    return np.asarray(moved, np.int64).reshape(-1)


def constant_matrix(graph: GraphEditor, name: str) -> Float64s | None:
    """A weight as it is multiplied: stored, dequantised, cast or transposed from one that is; None for a live tensor."""
    if name in graph.flow.stored:
        return numpy_helper.to_array(graph.flow.stored[name]).astype(np.float64)
    node = graph.producer(name)
    if node is None or node.op_type not in ("DequantizeLinear", "Transpose", "Cast", "Identity"):
        return None
    source = constant_matrix(graph, node.input[0])
    if source is None:
        return None
    if node.op_type == "Transpose":
        order = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
        return source.transpose(order)
    if node.op_type == "DequantizeLinear":
        return _dequantised(graph, node, source)
    return source


def _dequantised(graph: GraphEditor, node: NodeProto, stored: Float64s) -> Float64s | None:
    parts = [graph.flow.constant(part) for part in node.input[1:] if part]
    if any(part is None for part in parts):
        return None
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    shaped = [_along(np.asarray(part, np.float64), axis, stored.ndim) for part in parts]
    return (stored - (shaped[1] if len(shaped) > 1 else 0)) * shaped[0]


def _along(values: NDArray, axis: int, dims: int) -> NDArray:
    if values.size == 1:
        return values.reshape(())
    return values.reshape([-1 if d == axis % dims else 1 for d in range(dims)])
