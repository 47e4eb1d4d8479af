"""A dynamic batch for files of one image in which it is not the first axis everywhere: followed from operator to operator.

torch's attention puts tokens before images and joins images and heads; a Swin joins images and windows. Each such step is a
reshape to fixed numbers, of which the one that carries the images is opened. What is not understood is left: the result is
proven by running it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from testbed.instrument.shapes import measured_shapes, model_input
from testbed.instrument.slicing import FROM_SHAPE, descendants

_STEM = "testbed/batch"


@dataclass(frozen=True)
class _Position:
    """Where the images are: the axis, and how many numbers of it lie before each image: 5 where 5 tokens of each image are
    put into one axis, tokens first."""

    axis: int
    inner: int = 1


Shapes = dict[str, tuple[int, ...]]


def opened_along_axes(proto: ModelProto) -> None:
    """Opens what holds a model of one image to it, changing the model in place. Raises EngineError as its engine does."""
    live = descendants(proto, model_input(proto).name) | {model_input(proto).name}
    names = [name for node in proto.graph.node for name in node.output if name in live]
    shapes = measured_shapes(proto, names, 1)
    dims = [dim.dim_value for dim in model_input(proto).type.tensor_type.shape.dim]
    shapes[model_input(proto).name] = (1, *dims[1:])
    axes = {model_input(proto).name: _Position(0)}
    constants = _Constants(proto)
    nodes: list[NodeProto] = []
    for node in proto.graph.node:
        source = next((name for name in node.input if name in axes), None)
        if source is not None and node.op_type not in FROM_SHAPE:
            for output in node.output:
                dimension = _position_after(node, axes[source], shapes[source], shapes.get(output), constants)
                if dimension is not None:
                    axes[output] = dimension
            nodes += _opened(node, axes, shapes, constants)
        nodes.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(constants.made)


class _Constants:
    """Whole numbers that the graph holds, and those that are made for it."""

    def __init__(self, proto: ModelProto) -> None:
        self._stored = {tensor.name: tensor for tensor in proto.graph.initializer}
        for node in proto.graph.node:
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    if attribute.name == "value":
                        self._stored[node.output[0]] = attribute.t
        self.made: list[TensorProto] = []

    def of(self, name: str) -> list[int] | None:
        """The numbers of a constant; None for what is computed."""
        if name not in self._stored:
            return None
        return [int(number) for number in numpy_helper.to_array(self._stored[name]).reshape(-1)]

    def make(self, stem: str, numbers: Sequence[int]) -> str:
        name = f"{_STEM}/{stem}"
        self.made.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
        return name


def _position_after(
    node: NodeProto, dimension: _Position, before: tuple[int, ...], after: tuple[int, ...] | None, constants: _Constants
) -> _Position | None:
    """Where the images are behind an operator; None where that is not known."""
    if after is None:
        return None
    if node.op_type in ("Reshape", "Flatten"):
        return _reshaped(dimension, before, after)
    axis = _axis_after(node, dimension.axis, before, after, constants)
    return None if axis is None else _Position(axis, dimension.inner)


def _reshaped(dimension: _Position, before: tuple[int, ...], after: tuple[int, ...]) -> _Position | None:
    """Find the images behind a reshape: as many numbers lie before each as did.

    Of several axes that can be, the last is that of features.
    """
    ahead = math.prod(before[: dimension.axis]) * dimension.inner
    led = [_Position(axis) for axis in range(len(after)) if math.prod(after[:axis]) == ahead]
    trailed = [_Position(axis, after[axis]) for axis in range(len(after)) if math.prod(after[: axis + 1]) == ahead]
    possible = [*led, *trailed]
    return next((other for other in possible if other.axis < len(after) - 1), next(iter(possible), None))


def _axis_after(
    node: NodeProto, axis: int, before: tuple[int, ...], after: tuple[int, ...], constants: _Constants
) -> int | None:
    if node.op_type == "Transpose":
        perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), list(range(len(before)))[::-1])
        return perm.index(axis)
    if node.op_type in ("Squeeze", "Unsqueeze", "ReduceMean", "ReduceSum", "ReduceMax"):
        asked = next((list(a.ints) for a in node.attribute if a.name == "axes"), None)
        listed = asked if asked is not None else constants.of(node.input[1]) if len(node.input) > 1 else []
        if listed is None or len(after) == len(before):
            return axis
        rank = max(len(before), len(after))
        dimensions = sorted(dimension % rank for dimension in listed)
        if node.op_type == "Unsqueeze":
            kept = [dimension for dimension in range(rank) if dimension not in dimensions]
            return kept[axis]
        return None if axis in dimensions else axis - sum(dimension < axis for dimension in dimensions)
    if node.op_type == "Gather":
        along = next((a.i for a in node.attribute if a.name == "axis"), 0) % len(before)
        if along == axis:
            return None
        return axis + len(after) - len(before) if along < axis else axis
    dimension = axis + len(after) - len(before)
    return dimension if 0 <= dimension < len(after) else None


def _opened(node: NodeProto, axes: dict[str, _Position], shapes: Shapes, constants: _Constants) -> list[NodeProto]:
    """Changes a node that holds the images to one. Returns nodes that must come before it."""
    output = node.output[0]
    if output not in axes:
        return []
    axis = axes[output].axis
    if node.op_type == "Reshape" and node.input[0] in axes:
        numbers = list(shapes[output])
        numbers[axis] = -1
        node.input[1] = constants.make(output, numbers)
        for attribute in node.attribute:
            if attribute.name == "allowzero":
                attribute.i = 0
    elif node.op_type == "Expand" and node.input[0] in axes:
        numbers = list(shapes[output])
        numbers[axis] = 1
        node.input[1] = constants.make(output, numbers)
    elif node.op_type == "Concat":
        return _widened(node, axis, axes, constants)
    return []


def _widened(node: NodeProto, axis: int, axes: dict[str, _Position], constants: _Constants) -> list[NodeProto]:
    """Nodes that repeat what does not carry the images as often as there are images."""
    like = next(name for name in node.input if name in axes)
    made = []
    for position, name in enumerate(node.input):
        if name not in axes:
            stem = f"{_STEM}/{node.output[0]}/{position}"
            dimension = constants.make(f"{node.output[0]}/{position}/axis", [axis])
            first, behind, last = (
                constants.make(f"{node.output[0]}/{position}/{part}", [number])
                for part, number in (("first", 0), ("behind", axis + 1), ("last", 2**31 - 1))
            )
            made += [
                helper.make_node("Shape", [like], [f"{stem}/like"]),
                helper.make_node("Gather", [f"{stem}/like", dimension], [f"{stem}/images"]),
                helper.make_node("Shape", [name], [f"{stem}/whole"]),
                helper.make_node("Slice", [f"{stem}/whole", first, dimension], [f"{stem}/before"]),
                helper.make_node("Slice", [f"{stem}/whole", behind, last], [f"{stem}/after"]),
                helper.make_node(
                    "Concat", [f"{stem}/{p}" for p in ("before", "images", "after")], [f"{stem}/shape"], axis=0
                ),
                helper.make_node("Expand", [name, f"{stem}/shape"], [f"{stem}/wide"]),
            ]
            node.input[position] = f"{stem}/wide"
    return made
