"""Branches and loops in a user's own file: taken where no number that an image or a fault can change decides what is run.

A fault changes numbers. Where it could also choose a branch, or how often a loop turns, one row's fault would choose for the
whole batch, and what is measured of the file would hold for the path of the images that it was measured with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from testbed.core.errors import TestbedError
from testbed.instrument.adopt.mend import inside
from testbed.instrument.probe import node_in_words
from testbed.instrument.shapes import model_input
from testbed.instrument.slicing import FROM_SHAPE

_WHOLE = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.STRING)
_SIZED_BY_OPERANDS = {
    *("Reshape", "Expand", "Tile", "Slice", "Pad", "Resize", "Upsample", "TopK", "OneHot", "Split", "SplitToSequence"),
    *("Squeeze", "Unsqueeze", "CenterCropPad", "SequenceAt", "SequenceErase", "SequenceInsert"),
}
_SIZED_BY_NUMBERS = {"NonZero", "Unique", "Compress", "NonMaxSuppression", "Range", "ConstantOfShape"}
_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}


def check_control_flow(proto: ModelProto, file: str) -> None:
    """Raises TestbedError, with its name, for a node whose path depends on the numbers of images or of weights."""
    weights = [tensor.name for tensor in proto.graph.initializer if tensor.data_type not in _WHOLE]
    numbers = {model_input(proto).name, *weights}
    try:
        _follow(proto.graph, _Moved(numbers, set(), set(weights)))
    except _Steered as steered:
        raise TestbedError(
            f"{file}: which way its {steered} goes depends on the images' numbers, so that a fault in one image would choose"
            " for all of them; export the model without it: torch's exporters write one way through Python's own if and for"
        ) from None


class _Steered(Exception):
    """A node whose way depends on the images' numbers; its message is the node in words."""

    def __init__(self, node: NodeProto) -> None:
        super().__init__(node_in_words(node))


@dataclass
class _Moved:
    """Tensors whose numbers follow those of images and weights, and those whose shape does. weights: stored, unchanging
    in size."""

    numbers: set[str]
    shapes: set[str]
    weights: set[str] = field(default_factory=set)

    def inner(self) -> _Moved:
        """Copy for a graph inside a node, which sees the names around it."""
        return _Moved(set(self.numbers), set(self.shapes), self.weights)

    def pass_on(self, sources: Sequence[str], targets: Sequence[str], source: _Moved) -> bool:
        """Mark tensors like those that they are copied from, in the graph around or inside; whether any is new."""
        before = len(self.numbers), len(self.shapes)
        for ours, theirs in zip(targets, sources, strict=False):
            if theirs in source.numbers:
                self.numbers.add(ours)
            if theirs in source.shapes:
                self.shapes.add(ours)
        return (len(self.numbers), len(self.shapes)) != before


def _follow(graph: GraphProto, reached: _Moved) -> None:
    for node in graph.node:
        graphs = list(inside(node))
        if node.op_type == "If":
            _through_branches(node, graphs, reached)
        elif node.op_type == "Loop":
            _through_loop(node, graphs[0], reached)
        elif node.op_type == "Scan":
            _through_scan(node, graphs[0], reached)
        elif graphs:
            raise _Steered(node)
        else:
            _through_operator(node, reached)


def _through_operator(node: NodeProto, reached: _Moved) -> None:
    numbers = [name for name in node.input if name in reached.numbers]
    shaped = any(name in reached.shapes for name in node.input)
    if node.op_type in FROM_SHAPE:
        reached.numbers.update(node.output if shaped else ())
        return
    operands = [name for name in node.input[1:] if name in numbers and name not in reached.weights]
    if shaped or (node.op_type in _SIZED_BY_NUMBERS and numbers) or (node.op_type in _SIZED_BY_OPERANDS and operands):
        reached.shapes.update(node.output)
        reached.numbers.update(node.output)
    if numbers or node.op_type in _RANDOM or _fills_with_numbers(node):
        reached.numbers.update(node.output)


def _fills_with_numbers(node: NodeProto) -> bool:
    """Whether the node makes a tensor of a constant that a fault can be in."""
    if node.op_type != "ConstantOfShape":
        return False
    value = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
    return value is None or value.data_type not in _WHOLE


def _through_branches(node: NodeProto, branches: Iterable[GraphProto], reached: _Moved) -> None:
    if node.input[0] in reached.numbers:
        raise _Steered(node)
    for branch in branches:
        inner = reached.inner()
        _follow(branch, inner)
        reached.pass_on(_names(branch.output), node.output, inner)


def _through_loop(node: NodeProto, body: GraphProto, reached: _Moved) -> None:
    trips_and_condition, carried = list(node.input[:2]), list(node.input[2:])
    if reached.numbers.intersection(trips_and_condition):
        raise _Steered(node)
    given, (condition, *results) = _names(body.input)[2:], _names(body.output)
    inner = _settled(body, carried, given, results, reached)
    if condition in inner.numbers:
        raise _Steered(node)
    reached.pass_on(results, node.output, inner)


def _through_scan(node: NodeProto, body: GraphProto, reached: _Moved) -> None:
    scanned = int(helper.get_node_attr_value(node, "num_scan_inputs"))
    states = len(node.input) - scanned
    if reached.shapes.intersection(node.input[states:]):
        raise _Steered(node)
    given, results = _names(body.input), _names(body.output)
    inner = _settled(body, list(node.input), given, results[:states], reached)
    reached.pass_on(results, node.output, inner)


def _settled(
    body: GraphProto, sources: Sequence[str], given: Sequence[str], carried: Sequence[str], reached: _Moved
) -> _Moved:
    """Marks inside a body that is run again and again, each time with what it gave before (``carried``)."""
    inner = reached.inner()
    inner.pass_on(sources, given, reached)
    _follow(body, inner)
    while inner.pass_on(carried, given, inner):
        _follow(body, inner)
    return inner


def _names(values: Iterable[ValueInfoProto]) -> list[str]:
    return [value.name for value in values]
