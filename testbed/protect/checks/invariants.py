"""Invariants of what is no product: layer norms, softmax, residual sums, activations."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from testbed.instrument.cut.flow import CannotCut
from testbed.protect.checks.products import name_of
from testbed.protect.checks.relation import Relation, Term
from testbed.protect.checks.sums import Vectors, constant_matrix, followed
from testbed.protect.graph import GraphEditor

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

    return Relation(
        name_of(graph, output), "layer norm", output.way, lambda v: _none(v.over_tokens(end)), terms, constant
    )


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

    return Relation(name_of(graph, output), "residual", output.way, _nothing, terms, output.constant)


def activation(graph: GraphEditor, node: NodeProto) -> Relation:
    """Check an activation function, of which no sum is known: its sum lies where it lay on the calibration images.

    The sum is there anyway, for the product that comes next: this costs nothing, and sees what is far out of range.
    """
    output = followed(graph, node.output[0])
    for tensor in output.tensors:
        graph.flow.per_image(tensor)

    def terms(vectors: Vectors) -> list[Term]:
        return [Term(vectors.total(end), 1.0) for end in output.tensors]

    return Relation(name_of(graph, output), "activation", output.way, _nothing, terms, is_range=True)


def is_residual(graph: GraphEditor, node: NodeProto) -> bool:
    """An Add of two live tensors of one shape that the batch leads."""
    if node.op_type != "Add" or len(graph.flow.live_inputs(node)) != 2:
        return False
    shapes = {graph.shape(name) for name in (*node.input, node.output[0])}
    return len(shapes) == 1 and () not in shapes


def _none(_: object) -> None:
    return None


def _nothing(_: Vectors) -> None:
    return None
