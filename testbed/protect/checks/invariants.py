"""Invariants of what is no product: layer norms, softmax, residual sums, what is rounded to integers."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from testbed.core.arrays import Float64s
from testbed.instrument.cut.flow import CannotCut
from testbed.instrument.sites.layers import Norm
from testbed.protect.checks.followed import SAME, Sum, followed
from testbed.protect.checks.operands import constant_matrix, laid_out
from testbed.protect.checks.products import name_of
from testbed.protect.checks.relation import ROUNDING, Relation, Statistics, Term
from testbed.protect.checks.sums import Vectors
from testbed.protect.graph import GraphEditor

_HALF = 0.51  # of a step: half of one, and what engines round differently
_LEAST_GAMMA = 1e-4  # of the largest: what is scaled by less says nothing in float32


def layer_norm(graph: GraphEditor, node: NodeProto) -> Relation:
    """Check LayerNormalization: the normalised values, got back by dividing by gamma, sum to 0 in every token.

    Raises CannotCut where a gamma is too small to divide by, or the sums cannot be taken.
    """
    gamma = constant_matrix(graph, node.input[1])
    shifted = len(node.input) > 2 and bool(node.input[2])
    beta = constant_matrix(graph, node.input[2]) if shifted else np.zeros(1)
    if gamma is None or gamma.ndim != 1 or beta is None:
        raise CannotCut("its gamma and beta are not stored vectors")
    return _normalised(graph, node.output[0], gamma, beta)


def written_norm(graph: GraphEditor, norm: Norm) -> Relation:
    """Check a layer norm that is written as several operators. Raises CannotCut as `layer_norm` does, and for an RMS norm."""
    if not norm.is_centred:
        raise CannotCut("an RMS norm's values have no sum that is known")
    affine = [None if weight is None else constant_matrix(graph, weight.tensor) for weight in (norm.weight, norm.bias)]
    gamma = np.ones(graph.flow.per_image(norm.input)[-1]) if affine[0] is None else affine[0].reshape(-1)
    return _normalised(graph, norm.output, gamma, np.zeros(1) if affine[1] is None else affine[1].reshape(-1))


def _normalised(graph: GraphEditor, made: str, gamma: Float64s, beta: Float64s) -> Relation:
    if np.abs(gamma).min() < _LEAST_GAMMA * np.abs(gamma).max():
        raise CannotCut("a gamma of it is nearly 0: nothing can be told of what it scales")
    output = _moved(graph, made)
    end, shape = output.tensors[0], graph.flow.per_image(made)
    rows = int(np.prod(shape[:-1])) if len(shape) > 1 else 1
    constant = rows * float((beta / gamma).sum())
    places = laid_out(graph, made, end)
    coefficients = np.tile(1 / gamma, rows)[places].reshape(graph.flow.per_image(end))

    def terms(vectors: Vectors) -> list[Term]:
        return [Term(*vectors.weighted(end, coefficients))]

    def needs(vectors: Vectors) -> None:
        vectors.weighted(end, coefficients)

    return Relation(name_of(graph, output), "layer norm", output.way, needs, terms, constant)


def _moved(graph: GraphEditor, made: str) -> Sum:
    """The furthest tensor that holds the same numbers."""
    output = followed(graph, made)
    steps = [graph.producer(name) for name in output.way[1:]]
    is_same = len(output.tensors) == 1 and all(step is not None and step.op_type in SAME for step in steps)
    return output if is_same else Sum((made,), (made,))


def softmax(graph: GraphEditor, node: NodeProto) -> Relation:
    """Every row of a softmax over the last axis sums to 1. Raises CannotCut for another axis."""
    made = node.output[0]
    shape = graph.flow.per_image(made)
    axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
    if axis not in (-1, len(shape)):
        raise CannotCut("it is not over the last axis")
    output = followed(graph, made)
    rows = int(np.prod(shape[:-1]))

    def terms(vectors: Vectors) -> list[Term]:
        return [Term(vectors.total(end), 1.0) for end in output.tensors]

    statistics = Statistics(1, rows, ())  # each row sums to 1, whatever it is of
    return Relation(name_of(graph, output), "softmax", output.way, _nothing, terms, rows * output.factor, statistics)


def residual(graph: GraphEditor, node: NodeProto) -> Relation:
    """Check a sum of two live tensors: its elements sum to what those of both do."""
    output = followed(graph, node.output[0])
    for tensor in (*node.input, *output.tensors):
        graph.flow.per_image(tensor)

    def terms(vectors: Vectors) -> list[Term]:
        outputs = [Term(vectors.total(end), 1.0) for end in output.tensors]
        return [*outputs, *(Term(vectors.total(part), -output.factor) for part in node.input)]

    statistics = Statistics(1, int(np.prod(graph.flow.per_image(output.tensors[0]))), (output.tensors[0],))
    return Relation(name_of(graph, output), "residual", output.way, _nothing, terms, output.constant, statistics)


def rounding(graph: GraphEditor, node: NodeProto) -> Relation:
    """Check a tensor's integers against what they were rounded from: no element is off by more than half a step.

    Sees every bit of each. node: the QuantizeLinear. Raises CannotCut where its step is not one stored number, or its
    integers are not turned back by one DequantizeLinear.
    """
    taken, made = node.input[0], node.output[0]
    step, zero = (graph.flow.constant(name) if name else None for name in (*node.input, "")[1:3])
    back = [each.output[0] for each in graph.consumers(made) if each.op_type == "DequantizeLinear"]
    if step is None or step.size != 1 or (zero is not None and zero.size != 1) or len(back) != 1:
        raise CannotCut("its integers are of several steps, or go several ways")
    limits = np.iinfo(zero.dtype if zero is not None else np.uint8)
    origin, size = float(zero.item() if zero is not None else 0), float(step.item())
    shape = graph.flow.per_image(taken)

    def terms(vectors: Vectors) -> list[Term]:
        prefix = f"{vectors.prefix}.{graph.named(made)}.{ROUNDING}"
        ends = [
            graph.constant(f"{prefix}.{end}", np.array((bound - origin) * size, np.float32))
            for end, bound in (("lowest", limits.min), ("highest", limits.max))
        ]
        kept = graph.add("Clip", [graph.wide(taken, prefix), *ends], f"{prefix}.kept")
        off = graph.add("Sub", [kept, graph.wide(back[0], prefix)], f"{prefix}.off")
        flat = graph.add("Flatten", [graph.add("Abs", [off], f"{prefix}.abs")], f"{prefix}.flat", axis=1)
        largest = graph.reduce("ReduceMax", flat, (1,), f"{prefix}.largest", keepdims=1)
        return [Term(vectors.product_of(largest, (1,)), 1.0)]

    assert shape
    bound = (-_HALF * size, _HALF * size)
    return Relation(graph.named(made), ROUNDING, (made, back[0]), _nothing, terms, bound=bound)


def is_residual(graph: GraphEditor, node: NodeProto) -> bool:
    """An Add of two live tensors of one shape that the batch leads."""
    if node.op_type != "Add" or len(graph.flow.live_inputs(node)) != 2:
        return False
    shapes = {graph.shape(name) for name in (*node.input, node.output[0])}
    return len(shapes) == 1 and () not in shapes


def _nothing(_: Vectors) -> None:
    return None
