"""Sums of a graph's tensors: which tensors together hold an affine operator's output, and the sums that checks are made of.

A sum over all of an image's elements is the same however they are laid out. So an operator's output can be summed where
it is last called by a name, behind bias, scale, reshapes and splits: a fault on the way there is seen, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from testbed.core.arrays import Float64s
from testbed.instrument.cut.segments import cut_segment
from testbed.protect.graph import GraphEditor

_SAME = ("Identity", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Dropout")
_ROUNDED = ("QuantizeLinear", "DequantizeLinear")
_PARTS = ("Split", "Gather")


@dataclass(frozen=True)
class Sum:
    """The sum over an operator's output is that over ``tensors``, less ``constant``, over ``factor``. way: all tensors from
    the output to these, a fault in any of which changes the sum."""

    tensors: tuple[str, ...]
    way: tuple[str, ...]
    factor: float = 1.0
    constant: float = 0.0


def followed(graph: GraphEditor, tensor: str, rounds: bool = False) -> Sum:
    """The furthest tensors that together are an affine, elementwise image of ``tensor``. rounds: through QuantizeLinear,
    too, but for such whose integers are a site of their own."""
    ends, way, factor = _followed(graph, tensor, rounds)
    return Sum(tuple(ends), tuple(way), factor, _constant(graph, tensor, ends))


def _followed(graph: GraphEditor, tensor: str, rounds: bool) -> tuple[list[str], list[str], float]:
    factor, way = 1.0, [tensor]
    outputs = {value.name for value in graph.proto.graph.output}
    while tensor not in outputs:
        step = _step(graph, tensor, rounds)
        if step is None:
            break
        ends, scale = step
        factor *= scale
        way += ends
        if len(ends) > 1:
            return ends, way, factor
        tensor = ends[0]
    return [tensor], way, factor


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
    if node.op_type in (*_SAME, "Concat") and tensor == _data(node, tensor):
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
    """The parts of a tensor that is taken apart whole: by one Split, or by a Gather for every index of an axis."""
    if len(nodes) == 1 and nodes[0].op_type == "Split" and nodes[0].input[0] == tensor:
        return [_end(graph, name) for name in nodes[0].output], 1.0
    shape, seen, axes = graph.shape(tensor), [], set()
    for node in nodes:
        index = graph.flow.constant(node.input[1]) if node.op_type == "Gather" and node.input[0] == tensor else None
        if index is None or index.size != 1:
            return None
        seen.append(int(index.reshape(-1)[0]))
        axes.add(next((a.i for a in node.attribute if a.name == "axis"), 0) % len(shape or (0,)))
    if len(axes) != 1 or not shape or sorted(seen) != list(range(shape[axes.pop()] or 0)):
        return None
    return [_end(graph, node.output[0]) for node in nodes], 1.0


def _end(graph: GraphEditor, tensor: str) -> str:
    """A part's own furthest name, where it is only laid out anew."""
    nodes = graph.consumers(tensor)
    while len(nodes) == 1 and nodes[0].op_type in _SAME and nodes[0].input[0] == tensor and tensor not in graph.human:
        tensor = nodes[0].output[0]
        nodes = graph.consumers(tensor)
    return tensor


def _constant(graph: GraphEditor, tensor: str, ends: list[str]) -> float:
    """What the ends sum to where the operator's output is 0: biases, class tokens and positions. Raises CannotCut where
    the way there takes more of the image than the tensor."""
    if ends == [tensor]:
        return 0.0
    segment = cut_segment(graph.flow, [tensor], ends)
    value = graph.flow.declared(tensor)
    shape = [1, *(d.dim_value for d in value.type.tensor_type.shape.dim[1:])]
    zeros = np.zeros(shape, helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    results = ReferenceEvaluator(segment).run(None, {segment.graph.input[0].name: zeros})
    return float(sum(np.asarray(result, np.float64).sum() for result in results))


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


@dataclass(frozen=True)
class Vector:
    """Sums of a tensor per image, (batch, 1, size), of which checks are linear combinations."""

    name: str
    size: int


class Vectors:
    """The sums that one group of checks takes, each computed once. prefix: of the names of what is added.

    Sums are products with ones. ONNX Runtime's reductions take twice the time at batch 1, and round by where a row lies in
    memory: the same image would have other sums elsewhere in the batch. What a sum over fewer axes is there of is not
    summed again.
    """

    def __init__(self, graph: GraphEditor, prefix: str) -> None:
        self.graph, self.prefix = graph, prefix
        self._made: dict[tuple[str, str], Vector] = {}

    @property
    def all(self) -> list[Vector]:
        """All vectors, in the order in which they were made."""
        return list(self._made.values())

    def total(self, tensor: str) -> Vector:
        """The sum of all of an image's elements, or sums over fewer axes that are there anyway."""
        for kind in ("tokens", "last"):
            if (tensor, kind) in self._made:
                return self._made[tensor, kind]

        shape = self._shape(tensor)
        if len(shape) == 1:
            return self.over_tokens(tensor)

        def make(name: str) -> Vector:
            ones = self._ones(shape[-1], 1)
            summed = self.graph.add("MatMul", [self.tokens(tensor), ones], f"{name}.sum")
            return self._vector(summed, (*shape[:-2], 1, 1), name)

        return self._keep(tensor, "total", make)

    def over_tokens(self, tensor: str) -> Vector:
        """Sums over the axis before the last; of one vector for each image, that."""
        shape = self._shape(tensor)
        if len(shape) == 1:
            return self._keep(
                tensor, "tokens", lambda name: Vector(self._row(self._wide(tensor), shape, name), shape[0])
            )
        kept = (*shape[:-2], 1, shape[-1])
        return self._keep(tensor, "tokens", lambda name: self._vector(self.tokens(tensor), kept, name))

    def over_tokens_of(self, added: str, like: str, name: str) -> Vector:
        """Sums over the axis before the last of what a check added: a tensor of the file, but for axes of one number."""
        shape, summed = self._shape(like), added
        if self.graph.element(like) != TensorProto.FLOAT:
            summed = self.graph.add("Cast", [added], f"{name}.fp32", to=TensorProto.FLOAT)
        if len(shape) > 1:
            summed = self.graph.add("MatMul", [self._ones(1, shape[-2]), summed], f"{name}.sum_tokens")
        kept = (1, *shape[:-2], 1, shape[-1])
        return self._vector(summed, kept, f"{name}.tokens")

    def over_last(self, tensor: str) -> Vector:
        """Sums over the last axis."""
        kept = (*self._shape(tensor)[:-1], 1)
        return self._keep(tensor, "last", lambda name: self._vector(self.last(tensor), kept, name))

    def product_of(self, tensor: str, shape: tuple[int, ...]) -> Vector:
        """What was computed from sums, as a vector. shape: one image's."""
        return self._keep(tensor, "row", lambda name: self._vector(tensor, shape, name))

    def tokens(self, tensor: str) -> str:
        """Sums over the axis before the last: (batch, ..., 1, last)."""
        name = f"{self.prefix}.{self.graph.named(tensor)}.sum_tokens"
        if self.graph.has(name):
            return name
        return self.graph.add("MatMul", [self._ones(1, self._shape(tensor)[-2]), self._wide(tensor)], name)

    def last(self, tensor: str) -> str:
        """Sums over the last axis: (batch, ..., 1)."""
        name = f"{self.prefix}.{self.graph.named(tensor)}.sum_last"
        if self.graph.has(name):
            return name
        return self.graph.add("MatMul", [self._wide(tensor), self._ones(self._shape(tensor)[-1], 1)], name)

    def _vector(self, tensor: str, shape: tuple[int, ...], name: str) -> Vector:
        return Vector(self._row(tensor, shape, name), int(np.prod(shape)))

    def _row(self, tensor: str, shape: tuple[int, ...], name: str) -> str:
        """The tensor as (batch, 1, size)."""
        if len(shape) == 2 and shape[0] == 1:
            return tensor
        row = self.graph.constant("protect.row", np.array([0, 1, -1], np.int64))
        return self.graph.add("Reshape", [tensor, row], name)

    def _keep(self, tensor: str, kind: str, make: Callable[[str], Vector]) -> Vector:
        if (tensor, kind) not in self._made:
            self._made[tensor, kind] = make(f"{self.prefix}.{self.graph.named(tensor)}.{kind}")
        return self._made[tensor, kind]

    def _wide(self, tensor: str) -> str:
        return self.graph.wide(tensor, self.prefix)

    def _ones(self, rows: int, columns: int) -> str:
        return self.graph.constant(f"protect.ones.{rows}x{columns}", np.ones((rows, columns), np.float32))

    def _shape(self, tensor: str) -> tuple[int, ...]:
        return self.graph.flow.per_image(tensor)
