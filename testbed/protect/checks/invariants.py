"""Invariants of what is no product: layer norms, softmax, residual sums, what is rounded to integers."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from testbed.instrument.cut.flow import CannotCut
from testbed.protect.checks.products import name_of
from testbed.protect.checks.relation import ROUNDING, Relation, Statistics, Term
from testbed.protect.checks.sums import Vectors, constant_matrix, followed
from testbed.protect.graph import GraphEditor

_HALF = 0.51  # of a step: half of one, and what engines round differently
_LEAST_GAMMA = 1e-4  # of the largest: what is scaled by less says nothing in float32


def layer_norm(graph: GraphEditor, node: NodeProto) -> Relation:
    """Check LayerNormalization: the normalised values, got back by dividing by gamma, sum to 0 in every token.

    Raises CannotCut where a gamma is too small to divide by, or the sums cannot be taken.
    """
    made = node.output[0]
    gamma = constant_matrix(graph, node.input[1])
    beta = constant_matrix(graph, node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if gamma is None or gamma.ndim != 1 or (len(node.input) > 2 and node.input[2] and beta is None):
        raise CannotCut("its gamma and beta are not stored vectors")
    if np.abs(gamma).min() < _LEAST_GAMMA * np.abs(gamma).max():
        raise CannotCut("a gamma of it is nearly 0: nothing can be told of what it scales")
    output = followed(graph, made)
    (end,) = output.tensors if len(output.tensors) == 1 else (made,)
    shape = graph.flow.per_image(end)
    rows = int(np.prod(shape[:-1])) if len(shape) > 1 else 1
    constant = rows * float((beta / gamma).sum()) if beta is not None else 0.0

    def terms(vectors: Vectors) -> list[Term]:
        sums = vectors.over_tokens(end)
        return [Term(sums, np.tile(1 / gamma, sums.size // len(gamma)))]

    return Relation(name_of(graph, output), "layer norm", output.way, lambda v: v.over_tokens(end), terms, constant)


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

    return Relation(name_of(graph, output), "softmax", output.way, _nothing, terms, rows * output.factor)


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
        largest = graph.add("ReduceMax", [flat, graph.axes(1)], f"{prefix}.largest", keepdims=1)
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
