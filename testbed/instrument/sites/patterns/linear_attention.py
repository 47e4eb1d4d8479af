"""Attention whose softmax runs over the tokens of the keys, or of the queries, alone: no query meets a key one by one."""

from __future__ import annotations

from collections.abc import Collection

from testbed.instrument.sites.layers import NONLINEAR
from testbed.instrument.sites.pattern_graph import LAYOUT, SCALE, SELECT, Graph, Node
from testbed.instrument.sites.patterns.site_shapes import SiteShapes

_PRODUCTS = ("MatMul", "Einsum")
_LAID_OUT = LAYOUT | SCALE | SELECT | {"Expand", "ReduceSum"}
Operands = tuple[str, str, str, str]


def linear_attention(graph: Graph, softmax: Node, shapes: SiteShapes) -> Operands | None:
    """Operands q, k, v and the context, of either form; None where it is neither."""
    return _of_keys(graph, softmax, shapes) or _of_one_query(graph, softmax, shapes)


def _of_keys(graph: Graph, softmax: Node, shapes: SiteShapes) -> Operands | None:
    """Factorised attention (CoaT): q times (softmax(k) times v)."""
    first = _next(graph, softmax.output, _PRODUCTS)
    second = _next(graph, first[0].output, _PRODUCTS) if first else None
    if first is None or second is None:
        return None
    (values, keys), (outer, inner) = first, second
    v, q = _other(graph, values, keys), _other(graph, outer, inner)
    if not v or not q:
        return None
    return _site(graph, q, shapes), softmax.inputs[0], _site(graph, v, shapes), outer.output


def _of_one_query(graph: Graph, softmax: Node, shapes: SiteShapes) -> Operands | None:
    """Separable attention (MobileViTv2): f(v) times the sum of k weighed by softmax(q), q one number a token."""
    first = _next(graph, softmax.output, ("Mul",))
    second = _next(graph, first[0].output, ("Mul",)) if first else None
    if first is None or second is None:
        return None
    (weighed, scores), (outer, summed) = first, second
    sums = [node.op for node in graph.downstream(weighed.output, LAYOUT | {"ReduceSum"}) if node.op == "ReduceSum"]
    k, v = _other(graph, weighed, scores), _other(graph, outer, summed)
    if not k or not v or not sums:
        return None
    *_, v = graph.upstream(v, NONLINEAR)
    return softmax.inputs[0], _site(graph, k, shapes), _site(graph, v, shapes), outer.output


def _next(graph: Graph, tensor: str, ops: Collection[str]) -> tuple[Node, str] | None:
    """The nearest node of ``ops`` with two live operands that ``tensor`` alone is laid out for, and as which operand."""
    for _ in range(len(graph.nodes)):
        uses = graph.uses(tensor)
        if len(uses) != 1:
            return None
        if uses[0].op in ops and len(set(graph.live_inputs(uses[0]))) == 2:
            return uses[0], tensor
        if uses[0].op not in _LAID_OUT or len(graph.live_inputs(uses[0])) != 1:
            return None
        tensor = uses[0].output
    return None


def _other(graph: Graph, node: Node, operand: str) -> str:
    return next((name for name in graph.live_inputs(node) if name != operand), "")


def _site(graph: Graph, tensor: str, shapes: SiteShapes) -> str:
    return shapes.first(graph.upstream(tensor, LAYOUT)) or tensor
