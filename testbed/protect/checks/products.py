"""Checks of matrix products (algorithm-based fault tolerance, Huang & Abraham 1984), by sums over all of an image.

Of Y = X W: the sum of Y is the sum of X's rows times the sums of W's rows, which were taken when the file was made: a fault
in W is seen as one in Y is. Of a product of two live tensors both sums are taken while it runs.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from testbed.core.arrays import Float64s
from testbed.instrument.cut.flow import CannotCut
from testbed.protect.checks.relation import Relation, Statistics, Term
from testbed.protect.checks.sums import Sum, Vectors, constant_matrix, followed
from testbed.protect.graph import GraphEditor


def product(graph: GraphEditor, node: NodeProto) -> Relation:
    """The check of a MatMul or Gemm. Raises CannotCut, with the reason, where its sums cannot be taken."""
    if node.op_type == "Gemm":
        return _of_weight(graph, node, _gemm_weight(graph, node), _gemm_bias(graph, node))
    weight = constant_matrix(graph, node.input[1])
    if weight is not None:
        return _of_weight(graph, node, weight, 0.0)
    if all(name in graph.flow.live for name in node.input):
        return _of_live(graph, node)
    raise CannotCut("its left operand is stored: no row of it is one image's")


def _of_weight(graph: GraphEditor, node: NodeProto, weight: Float64s, bias: float) -> Relation:
    taken, made = node.input[0], node.output[0]
    shape = graph.flow.per_image(taken)
    if weight.ndim != 2:
        raise CannotCut("its weight has more axes than two")
    output = followed(graph, made, rounds=True)
    rows = int(np.prod(shape[:-1])) if len(shape) > 1 else 1
    sums = weight.sum(axis=1)
    _check_led(graph, output)

    def needs(vectors: Vectors) -> None:
        vectors.over_tokens(taken)

    def terms(vectors: Vectors) -> list[Term]:
        token_sums = vectors.over_tokens(taken)
        repeated = np.tile(sums, token_sums.size // len(sums))
        return [*(Term(vectors.total(end), 1.0) for end in output.tensors), Term(token_sums, -output.factor * repeated)]

    statistics = Statistics(len(sums), rows * weight.shape[1], (taken,), _deviation_bound(weight))
    constant = output.constant + output.factor * rows * bias
    return Relation(name_of(graph, output), "product", output.way, needs, terms, constant, statistics)


def _of_live(graph: GraphEditor, node: NodeProto) -> Relation:
    left, right = node.input
    output = followed(graph, node.output[0], rounds=True)
    _check_led(graph, output)
    turned = graph.producer(right)
    is_turned = turned is not None and turned.op_type == "Transpose" and _swaps_last(turned)
    source = turned.input[0] if turned is not None and is_turned else right
    first, second = graph.flow.per_image(left), graph.flow.per_image(right)
    if first[:-2] != second[:-2] or len(first) < 2:
        raise CannotCut("its operands are of different numbers of axes")

    def needs(vectors: Vectors) -> None:
        vectors.over_tokens(left)
        if is_turned:
            vectors.over_tokens(source)
        else:
            vectors.over_last(source)

    def terms(vectors: Vectors) -> list[Term]:
        name = f"{vectors.prefix}.{name_of(graph, output)}.pairs"
        if is_turned:
            pairs, shape = graph.add("Mul", [vectors.tokens(left), vectors.tokens(source)], name), (1, first[-1])
        else:
            pairs, shape = graph.add("MatMul", [vectors.tokens(left), vectors.last(source)], name), (1, 1)
        both = vectors.product_of(pairs, (*first[:-2], *shape))
        return [*(Term(vectors.total(end), 1.0) for end in output.tensors), Term(both, -output.factor)]

    statistics = Statistics(first[-1], int(np.prod(first[:-1])) * second[-1], (left, source))
    return Relation(name_of(graph, output), "live product", output.way, needs, terms, output.constant, statistics)


def _check_led(graph: GraphEditor, output: Sum) -> None:
    for end in output.tensors:
        graph.flow.per_image(end)


def name_of(graph: GraphEditor, output: Sum) -> str:
    """Name a check after the sites that are summed, or the last one before."""
    named = [graph.human[end] for end in output.tensors if end in graph.human]
    before = [graph.human[tensor] for tensor in output.way if tensor in graph.human]
    return "+".join(named or before[-1:]) or graph.named(output.tensors[0])


def _gemm_weight(graph: GraphEditor, node: NodeProto) -> Float64s:
    settings = {a.name: a for a in node.attribute}
    weight = constant_matrix(graph, node.input[1])
    if weight is None or ("transA" in settings and settings["transA"].i):
        raise CannotCut("its weight is not stored, or its input is transposed")
    alpha = settings["alpha"].f if "alpha" in settings else 1.0
    return alpha * (weight.T if "transB" in settings and settings["transB"].i else weight)


def _gemm_bias(graph: GraphEditor, node: NodeProto) -> float:
    """What the bias adds to each row's sum."""
    if len(node.input) < 3 or not node.input[2]:
        return 0.0
    bias, weight = constant_matrix(graph, node.input[2]), _gemm_weight(graph, node)
    if bias is None or bias.size not in (1, weight.shape[1]):
        raise CannotCut("its bias is not one number for each output")
    beta = next((a.f for a in node.attribute if a.name == "beta"), 1.0)
    return float(beta * bias.sum() * (weight.shape[1] if bias.size == 1 else 1))


def _swaps_last(node: NodeProto) -> bool:
    order = next((list(a.ints) for a in node.attribute if a.name == "perm"), [])
    n = len(order)
    return n >= 2 and order == [*range(n - 2), n - 1, n - 2]


def _deviation_bound(values: Float64s) -> float:
    """Bhatia & Davis 2000: the variance is at most (max - mean) (mean - min)."""
    mean = float(values.mean())
    return float(np.sqrt((values.max() - mean) * (mean - values.min())))
