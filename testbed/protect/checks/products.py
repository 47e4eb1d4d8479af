"""Checks of matrix products (algorithm-based fault tolerance, Huang & Abraham 1984), by sums over all of an image.

Of Y = X W: the sum of Y is the sum of X's rows times the sums of W's rows, which were taken when the file was made: a fault
in W is seen as one in Y is. A convolution is such a product, of pixels. Of a product of two live tensors both sums are
taken while it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, helper

from testbed.core.arrays import Float64s
from testbed.instrument.cut.flow import CannotCut
from testbed.protect.checks.followed import Sum, followed
from testbed.protect.checks.operands import constant_matrix, operand
from testbed.protect.checks.relation import Relation, Statistics, Term
from testbed.protect.checks.sums import Vectors
from testbed.protect.graph import GraphEditor


@dataclass(frozen=True)
class _Map:
    """A linear map of an operand. ``coefficients``: of each of its elements, or of its last axis, in the sum of the product;
    inner: length of the sums that make an element; elements: of the product, of one image; bias: what it adds to the sum."""

    taken: str
    coefficients: Float64s
    weight: Float64s
    inner: int
    elements: int
    bias: float


def product(graph: GraphEditor, node: NodeProto) -> Relation:
    """The check of a MatMul, Gemm or Conv. Raises CannotCut, with the reason, where its sums cannot be taken."""
    if node.op_type == "Conv":
        return _of_weight(graph, node, lambda _: _convolution(graph, node))
    if node.op_type == "Gemm":
        weight = _gemm_weight(graph, node)
        return _of_weight(graph, node, lambda rows: _dense(node, weight, rows, _gemm_bias(graph, node)))
    stored = constant_matrix(graph, node.input[1])
    if stored is not None:
        return _of_weight(graph, node, lambda rows: _dense(node, stored, rows, 0.0))
    if all(name in graph.flow.live for name in node.input):
        return _of_live(graph, node)
    raise CannotCut("its left operand is stored: no row of it is one image's")


def _dense(node: NodeProto, weight: Float64s, size: int, bias: float) -> _Map:
    """Map by a stored matrix. size: elements of one image's operand."""
    if weight.ndim != 2:
        raise CannotCut("its weight has more axes than two")
    inner, outputs = weight.shape
    rows = size // inner
    return _Map(node.input[0], weight.sum(axis=1), weight, inner, rows * outputs, rows * bias)


def _convolution(graph: GraphEditor, node: NodeProto) -> _Map:
    """Every pixel's coefficient: the weights that it is multiplied by, of all outputs."""
    weight = constant_matrix(graph, node.input[1])
    bias = constant_matrix(graph, node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
    shape, made = graph.flow.per_image(node.input[0]), graph.flow.per_image(node.output[0])
    if weight is None or bias is None or weight.ndim != 4 or len(shape) != 3:
        raise CannotCut("its weight and bias are not stored, or its image has not two sides")
    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if settings.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise CannotCut("its padding depends on the image's size")
    sides = list(zip(settings.get("strides", (1, 1)), settings.get("dilations", (1, 1)), strict=True))
    before, groups = settings.get("pads", (0, 0, 0, 0))[:2], settings.get("group", 1)
    sums = weight.reshape(groups, -1, *weight.shape[1:]).sum(axis=1).reshape(shape[0], *weight.shape[2:])
    coefficients = np.zeros(shape)
    for kernel in np.ndindex(*weight.shape[2:]):
        places = [
            np.arange(count) * stride - pad + offset * dilation
            for offset, count, pad, (stride, dilation) in zip(kernel, made[1:], before, sides, strict=True)
        ]
        rows, columns = (at[(at >= 0) & (at < size)] for at, size in zip(places, shape[1:], strict=True))
        coefficients[:, rows[:, None], columns] += sums[(slice(None), *kernel)][:, None, None]
    elements = int(np.prod(made))
    inner = int(np.prod(weight.shape[1:]))
    return _Map(node.input[0], coefficients, weight, inner, elements, float(bias.sum()) * elements / made[0])


def _of_weight(graph: GraphEditor, node: NodeProto, map_of: Callable[[int], _Map]) -> Relation:
    """Check a product by a stored weight. map_of: its map, by the elements of one image's operand."""
    source = operand(graph, node.input[0])
    output = followed(graph, node.output[0], rounds=True)
    mapped = map_of(source.index.size)
    coefficients = source.pulled_back(mapped.coefficients)

    def needs(vectors: Vectors) -> None:
        vectors.weighted(source.source, coefficients)

    def terms(vectors: Vectors) -> list[Term]:
        sums, weights = vectors.weighted(source.source, coefficients)
        return [*(Term(vectors.total(end), 1.0) for end in output.tensors), Term(sums, -output.factor * weights)]

    statistics = Statistics(mapped.inner, mapped.elements, (source.source,), _deviation_bound(mapped.weight))
    constant = output.constant + output.factor * mapped.bias
    covers = (*output.way, *source.way)
    return Relation(name_of(graph, output), "product", covers, needs, terms, constant, statistics)


def _of_live(graph: GraphEditor, node: NodeProto) -> Relation:
    left, right = node.input
    output = followed(graph, node.output[0], rounds=True)
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
