"""Find the tensors that together hold an affine operator's output.

A sum over all of an image's elements is the same however they are laid out. So an operator's output can be summed where
it is last called by a name, behind bias, scale, reshapes and splits: a fault on the way there is seen, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper
from onnx.reference import ReferenceEvaluator

from testbed.instrument.cut.flow import CannotCut
from testbed.instrument.cut.segments import model_of
from testbed.protect.graph import GraphEditor

SAME = ("Identity", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Dropout")
_ROUNDED = ("QuantizeLinear", "DequantizeLinear")
_PARTS = ("Split", "Gather", "Slice")
_ENDLESS = 2**31  # a Slice whose end is no less goes to the end of its axis


@dataclass(frozen=True)
class Sum:
    """The sum over an operator's output is that over ``tensors``, less ``constant``, over ``factor``. way: all tensors from
    the output to these, a fault in any of which changes the sum."""

    tensors: tuple[str, ...]
    way: tuple[str, ...]
    factor: float = 1.0
    constant: float = 0.0


def followed(graph: GraphEditor, tensor: str, rounds: bool = False) -> Sum:
    """The furthest tensors, led by the batch, that together are an affine, elementwise image of ``tensor``. rounds: through
    QuantizeLinear, too, but for such whose integers are a site of their own.

    Raises CannotCut where the batch leads none of them.
    """
    ends, way, factor = _furthest(graph, tensor, rounds)
    return Sum(tuple(ends), tuple(way), factor, _constant(graph, tensor, ends))


def _furthest(graph: GraphEditor, tensor: str, rounds: bool) -> tuple[list[str], list[str], float]:
    best = None
    for ends, way, factor in _states(graph, tensor, rounds):
        if all(is_led(graph, end) for end in ends):
            best = ends, [*way], factor
    if best is None:
        raise CannotCut(f"{graph.named(tensor)!r} and what is made of it are not led by the batch")
    return best


def _states(graph: GraphEditor, tensor: str, rounds: bool) -> Iterator[tuple[list[str], list[str], float]]:
    """The ends so far, all tensors on the way, and the scale, step by step."""
    factor, way = 1.0, [tensor]
    outputs = {value.name for value in graph.proto.graph.output}
    yield [tensor], way, factor
    while tensor not in outputs:
        step = _step(graph, tensor, rounds)
        if step is None:
            return
        ends, scale = step
        factor *= scale
        way += ends
        yield ends, way, factor
        if len(ends) > 1:
            return
        tensor = ends[0]


def is_led(graph: GraphEditor, tensor: str) -> bool:
    """Whether the batch leads a tensor, and its other sizes are known."""
    try:
        graph.flow.per_image(tensor)
    except CannotCut:
        return False
    return True


def _step(graph: GraphEditor, tensor: str, rounds: bool) -> tuple[list[str], float] | None:
    """The next tensors, and by what they are scaled; None where the tensor goes on otherwise, or to several places."""
    nodes = graph.consumers(tensor)
    if len(nodes) > 1 or (nodes and nodes[0].op_type in _PARTS):
        return _partition(graph, nodes, tensor)
    if len(nodes) != 1 or len(graph.flow.live_inputs(nodes[0])) != 1 or list(nodes[0].input).count(tensor) != 1:
        return None
    node = nodes[0]
    output = node.output[0]
    if node.op_type in _ROUNDED:
        return ([output], 1.0) if rounds and tensor == node.input[0] and output not in graph.human else None
    if node.op_type in (*SAME, "Concat") and tensor == _data(node, tensor):
        return [output], 1.0
    if node.op_type == "Add" and _keeps_shape(graph, tensor, output):
        return [output], 1.0
    if node.op_type in ("Mul", "Div") and _keeps_shape(graph, tensor, output):
        other = graph.flow.constant(next(name for name in node.input if name != tensor))
        if other is None or other.size != 1 or (node.op_type == "Div" and node.input[0] != tensor):
            return None
        scale = float(other.reshape(-1)[0])
        return ([output], scale if node.op_type == "Mul" else 1 / scale) if scale and np.isfinite(scale) else None
    return None


def _data(node: NodeProto, tensor: str) -> str:
    """The input that an operator lays out anew; any of a Concat's."""
    return tensor if node.op_type == "Concat" else node.input[0]


def _keeps_shape(graph: GraphEditor, tensor: str, output: str) -> bool:
    return graph.shape(tensor) == graph.shape(output) != ()


def _partition(graph: GraphEditor, nodes: list[NodeProto], tensor: str) -> tuple[list[str], float] | None:
    """The parts of a tensor that is taken apart whole: by one Split, or by Gathers and Slices for every index of an axis."""
    if len(nodes) == 1 and nodes[0].op_type == "Split" and nodes[0].input[0] == tensor:
        return [_end(graph, name) for name in nodes[0].output], 1.0
    shape, seen, axes = graph.shape(tensor), [], set()
    for node in nodes:
        taken = _taken(graph, node, shape) if shape and node.input[0] == tensor else None
        if taken is None:
            return None
        axes.add(taken[0])
        seen += taken[1]
    if len(axes) != 1 or sorted(seen) != list(range(shape[axes.pop()] or 0)):
        return None
    return [_end(graph, node.output[0]) for node in nodes], 1.0


def _taken(graph: GraphEditor, node: NodeProto, shape: tuple[int | None, ...]) -> tuple[int, list[int]] | None:
    """The axis of which a Gather or Slice takes a part, and the indices that it takes; None where they are not known."""
    if node.op_type == "Gather":
        index = _number(graph, node.input[1])
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0) % len(shape)
        size = shape[axis] or 0
        return None if index is None or index.size != 1 or not size else (axis, [int(index.reshape(-1)[0]) % size])
    if node.op_type != "Slice" or len(node.input) < 4:
        return None
    given = [_number(graph, name) for name in node.input[1:] if name]
    if any(part is None or part.size != 1 for part in given):
        return None
    start, end, axis, *steps = (int(part.reshape(-1)[0]) for part in given if part is not None)
    size = shape[axis % len(shape)] or 0
    if size < 1 or steps not in ([], [1]):
        return None
    return axis % len(shape), [*range(size)][start : None if end >= _ENDLESS else end]


def _number(graph: GraphEditor, name: str) -> NDArray | None:
    """Value of a tensor that is stored, or computed from sizes; None where it is not the same whatever the batch."""
    flow = graph.flow
    stored = flow.constant(name)
    if stored is not None or name in flow.live or name not in flow.producer:
        return stored
    image, end = flow.declared(flow.input), helper.make_tensor_value_info(name, flow.types[name], None)
    try:
        evaluator = ReferenceEvaluator(model_of(flow, [flow.nodes[flow.producer[name]]], [image], [end], {}))
    except CannotCut:
        return None
    dtype = helper.tensor_dtype_to_np_dtype(flow.types[flow.input])
    values = []
    for batch in (1, 2):
        (value,) = evaluator.run(None, {flow.input: np.zeros((batch, *flow.per_image(flow.input)), dtype)})
        values.append(np.asarray(value))
    return values[0] if np.array_equal(values[0], values[1]) else None


def _end(graph: GraphEditor, tensor: str) -> str:
    """A part's own furthest name, where it is only laid out anew."""
    nodes = graph.consumers(tensor)
    while len(nodes) == 1 and nodes[0].op_type in SAME and nodes[0].input[0] == tensor and tensor not in graph.human:
        tensor = nodes[0].output[0]
        nodes = graph.consumers(tensor)
    return tensor


def _constant(graph: GraphEditor, tensor: str, ends: list[str]) -> float:
    """What the ends sum to where the operator's output is 0: biases, class tokens and positions. Raises CannotCut where
    the way there takes more of the image than the tensor."""
    if ends == [tensor]:
        return 0.0
    flow = graph.flow
    nodes = [flow.nodes[index] for index in flow.between([tensor], ends)]
    image = flow.declared(flow.input)  # leads with the batch, which shapes on the way may be made of
    start = helper.make_tensor_value_info(tensor, flow.types[tensor], None)
    segment = model_of(flow, nodes, [image, start], [flow.declared(end) for end in ends], {})
    dtype = helper.tensor_dtype_to_np_dtype(flow.types[tensor])
    zeros = {
        flow.input: np.zeros((1, *flow.per_image(flow.input)), helper.tensor_dtype_to_np_dtype(flow.types[flow.input])),
        tensor: np.zeros([abs(size or 1) for size in flow.shapes[tensor]], dtype),
    }
    results = ReferenceEvaluator(segment).run(None, zeros)
    return float(sum(np.asarray(result, np.float64).sum() for result in results))
