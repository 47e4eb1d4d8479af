"""Which row of an operator's output is made from which row of its inputs: the rules that token restriction rests on.

A *row* is everything at one position of one axis. For a live input of a node, and an axis of its output, ``sources``
says along which axis of the input row t alone gives row t of the output, or that the whole input is needed. Operators
that are not known need everything, so what is not understood is never restricted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from onnx import NodeProto, helper

from testbed.instrument.cut.flow import Flow, Shape, is_number

_ELEMENTWISE = frozenset(
    (
        *("Abs", "Add", "BitCast", "Cast", "Ceil", "Clip", "Cos", "DequantizeLinear", "Div", "Dropout", "Elu", "Equal"),
        *("Erf", "Exp", "Floor", "Gelu", "Greater", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN"),
        *("LeakyRelu", "Less", "Log", "Max", "Min", "Mish", "Mul", "Neg", "Not", "Pow", "QuantizeLinear", "Reciprocal"),
        *("Relu", "Round", "Sigmoid", "Sign", "Sin", "Softplus", "Sqrt", "Sub", "Sum", "Tanh", "Where"),
    )
)
_RESHAPED = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze"))
_REDUCED = frozenset(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceSumSquare", "ReduceL2"))
_SOFTMAX_OF_ONE_AXIS = 13
Sources = dict[str, int | None]
"""Live input -> its axis; None where all of it is needed."""


def sources(flow: Flow, node: NodeProto, axis: int) -> Sources:
    """What row t of each input gives, for row t along ``axis`` (not negative) of the node's first output."""
    live = flow.live_inputs(node)
    everything: Sources = dict.fromkeys(live)
    output = flow.shapes.get(node.output[0])
    if node.domain not in ("", "ai.onnx") or output is None or any(name not in flow.shapes for name in live):
        return everything
    if any(flow.shapes.get(name) is None for name in node.output if name):
        return everything
    rule = _elementwise if node.op_type in _ELEMENTWISE else _RULES.get(node.op_type)
    axes = rule(flow, node, axis, output) if rule else None
    return everything if axes is None else axes


def _elementwise(flow: Flow, node: NodeProto, axis: int, output: Shape) -> Sources | None:
    axes: Sources = {}
    if node.op_type in ("QuantizeLinear", "DequantizeLinear") and _channel(flow, node, len(output)) == axis:
        return None
    for name in dict.fromkeys(n for n in node.input if n):
        shape = _shape(flow, name)
        if shape is None:
            return None
        own = axis - (len(output) - len(shape))
        broadcast = own < 0 or (shape[own] == 1 and output[axis] != 1)
        if name in flow.live:
            axes[name] = None if broadcast else own
        elif not broadcast and output[axis] != 1:
            return None  # a constant with rows of its own: another one for each
    return axes


def _channel(flow: Flow, node: NodeProto, rank: int) -> int | None:
    """The axis along which a quantiser's scale varies."""
    scale = _shape(flow, node.input[1])
    return None if scale is not None and all(d == 1 for d in scale) else _attribute(node, "axis", 1) % rank


def _matmul(flow: Flow, node: NodeProto, axis: int, output: Shape) -> Sources | None:
    left, right = node.input
    shapes = _shape(flow, left), _shape(flow, right)
    rank = len(output)
    if shapes[0] is None or shapes[1] is None or min(len(shapes[0]), len(shapes[1])) < 2 or left == right:
        return None
    axes: Sources = {}
    for name, shape, own_column in ((left, shapes[0], rank - 2), (right, shapes[1], rank - 1)):
        own: int | None = axis - (rank - len(shape))
        if axis >= rank - 2 and axis != own_column:
            own = None  # the sum runs over all of it
        elif own is not None and (own < 0 or (shape[own] == 1 and output[axis] != 1)):
            own = None
        if name in flow.live:
            axes[name] = own
        elif own is not None and output[axis] != 1:
            return None
    return axes


def _normalised(flow: Flow, node: NodeProto, axis: int, output: Shape) -> Sources | None:
    """LayerNormalization (all axes from ``axis`` on), Softmax (one; before opset 13, all axes from there on)."""
    old = node.op_type == "Softmax" and flow.opset < _SOFTMAX_OF_ONE_AXIS
    own = _attribute(node, "axis", 1 if old else -1) % len(output)
    if set(flow.live_inputs(node)) != {node.input[0]} or (old and own != len(output) - 1):
        return None
    apart = axis < own if node.op_type != "Softmax" else axis != own
    return {node.input[0]: axis} if apart else None


def _transpose(flow: Flow, node: NodeProto, axis: int, output: Shape) -> Sources | None:
    order = _attribute(node, "perm", list(range(len(output)))[::-1])
    return {node.input[0]: int(order[axis])}


def _reshape(flow: Flow, node: NodeProto, axis: int, output: Shape) -> Sources | None:
    """The axis of equal size with as many elements before it."""
    shape = flow.shapes[node.input[0]]
    if node.input[0] not in flow.live or 0 in shape or 0 in output:
        return None
    for own in range(len(shape)):
        if shape[own] == output[axis] != 1 and _elements(shape[:own]) == _elements(output[:axis]):
            return {node.input[0]: own}
    return None


def _elements(shape: Shape) -> tuple[int, int]:
    """Power of the batch, and its factor."""
    return sum(not is_number(d) for d in shape), math.prod(abs(d or 1) for d in shape)


def _gather(flow: Flow, node: NodeProto, axis: int, output: Shape) -> Sources | None:
    """Gather by constant indices along another axis."""
    data, indices = node.input
    chosen = flow.constant(indices)
    if chosen is None or data not in flow.live:
        return None
    own = _attribute(node, "axis", 0) % len(flow.shapes[data])
    if own <= axis < own + chosen.ndim:
        return None
    return {data: axis if axis < own else axis - chosen.ndim + 1}


def _split(flow: Flow, node: NodeProto, axis: int, output: Shape) -> Sources | None:
    return {node.input[0]: axis} if axis != _attribute(node, "axis", 0) % len(output) else None


def _slice(flow: Flow, node: NodeProto, axis: int, output: Shape) -> Sources | None:
    """What keeps its size is not sliced."""
    shape = flow.shapes[node.input[0]]
    axes = flow.constant(node.input[3]) if len(node.input) > 3 else None
    if axes is None or any(int(a) % len(shape) == axis for a in axes):
        return None
    return {node.input[0]: axis}


def _concat(flow: Flow, node: NodeProto, axis: int, output: Shape) -> Sources | None:
    if axis == _attribute(node, "axis", 0) % len(output):
        return None
    if any(name not in flow.live for name in node.input):
        return None
    return dict.fromkeys(node.input, axis)


def _reduced(flow: Flow, node: NodeProto, axis: int, output: Shape) -> Sources | None:
    shape = flow.shapes[node.input[0]]
    if not _attribute(node, "keepdims", 1):
        return None
    axes = _attribute(node, "axes", None)
    if axes is None and len(node.input) > 1:
        axes = flow.constant(node.input[1])
    if axes is None or any(int(a) % len(shape) == axis for a in axes):
        return None
    return {node.input[0]: axis}


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    attributes = [a for a in node.attribute if a.name == name]
    return helper.get_attribute_value(attributes[0]) if attributes else default


def _shape(flow: Flow, tensor: str) -> Shape | None:
    if tensor in flow.stored:
        return tuple(flow.stored[tensor].dims)
    if tensor in flow.shapes:
        return flow.shapes[tensor]
    value = flow.constant(tensor)
    return None if value is None else value.shape


_RULES: dict[str, Callable[[Flow, NodeProto, int, Shape], Sources | None]] = {
    "MatMul": _matmul,
    "LayerNormalization": _normalised,
    "Softmax": _normalised,
    "Transpose": _transpose,
    "Gather": _gather,
    "Split": _split,
    "Slice": _slice,
    "Concat": _concat,
    **dict.fromkeys(_RESHAPED, _reshape),
    **dict.fromkeys(_REDUCED, _reduced),
}
