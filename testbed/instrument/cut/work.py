"""How much a part of a graph computes: multiply-accumulates of its products, for one image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from onnx import NodeProto

from testbed.instrument.cut.flow import Flow, Shape

PRODUCTS = ("MatMul", "Gemm", "Conv", "FusedMatMul")


def macs(flow: Flow, places: Iterable[int], few: Mapping[str, tuple[int, ...]] | None = None) -> float:
    """Multiply-accumulates of the nodes at ``places``. few: shapes, for one image, of tensors of which only some rows
    are computed."""
    return float(sum(_of_node(flow, flow.nodes[index], few or {}) for index in places))


def _of_node(flow: Flow, node: NodeProto, few: Mapping[str, tuple[int, ...]]) -> int:
    output = flow.shapes.get(node.output[0]) if node.op_type in PRODUCTS else None
    if output is None:
        return 0
    made: Shape = few.get(node.output[0], output)
    return math.prod(abs(d or 1) for d in made) * _inner(flow, node)


def _inner(flow: Flow, node: NodeProto) -> int:
    """Numbers summed up for one number of the output."""
    if node.op_type == "Conv":
        return math.prod(d or 1 for d in _shape(flow, node.input[1])[1:])
    return int(_shape(flow, node.input[0])[-1] or 1)


def _shape(flow: Flow, tensor: str) -> Shape:
    return tuple(flow.stored[tensor].dims) if tensor in flow.stored else flow.shapes.get(tensor, (1,))
