"""Attention, found around a Softmax (or in place of one fused operator): q, k, v, scores, maps, context."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from testbed.instrument.sites.fused import ATTENTION
from testbed.instrument.sites.layers import Linear, Norm
from testbed.instrument.sites.pattern_graph import LAYOUT, SCALE, SELECT, Graph, Node
from testbed.instrument.sites.patterns.linear_attention import linear_attention
from testbed.instrument.sites.patterns.site_shapes import SiteShapes

_PRODUCTS = ("MatMul", "FusedMatMul", "Einsum")
_TO_SCORES = LAYOUT | SCALE | {"Add", "Sub", "Where"}  # scale, mask and relative positions
_TO_CONTEXT = LAYOUT | SELECT | SCALE | {"Add", "Sub", "Where", "IsNaN"}
_NORMALISED = {"ReduceL2", "ReduceSum", "Sqrt", "Pow", "Clip", "Max", "Expand", "Reciprocal"}  # cosine attention
_POOLED = {"ReduceMax", "ReduceMean", "MaxPool", "AveragePool"}  # fewer queries than tokens
_ROTATED = {"Add", "Sub", "Neg", "Concat"}
_TO_QKV = LAYOUT | SELECT | SCALE | {"BatchNormalization"} | _ROTATED | _NORMALISED | _POOLED


@dataclass(frozen=True)
class AttentionTensors:
    """Tensor names. ``scores`` (what enters the softmax) and ``softmax`` are empty where a fused operator has them.

    ``sources``: the linear maps that make q, k and v, three times the same where they are packed. ``norms``: the layer
    norms between, where there are. ``product``, ``mixed``: scores before, and maps after, the heads are mixed by weights;
    empty where they are not.
    """

    index: int
    q: str
    k: str
    v: str
    scores: str
    softmax: str
    context: str
    sources: tuple[Linear | None, Linear | None, Linear | None]
    norms: tuple[Norm | None, Norm | None, Norm | None]
    inside: str = ""
    product: str = ""
    mixed: str = ""
    mixes: tuple[Linear | None, Linear | None] = (None, None)


def attentions(
    graph: Graph, outputs: Mapping[str, Linear], norms: Mapping[str, Norm], shapes: SiteShapes
) -> Iterator[AttentionTensors]:
    """Attention modules in execution order. ``outputs``, ``norms``: linear maps and layer norms by output."""
    for node in graph.nodes:
        if node.op == ATTENTION and len(node.inputs) == 3:
            yield _fused(graph, node, outputs, norms)
        elif node.op == "Softmax" and node.inputs[0] in graph.live:
            first, second = _product_before(graph, node), _product_after(graph, node, norms)
            if first is not None and second is not None:
                yield _around(graph, node, first, second, outputs, norms, shapes)
            elif linear := linear_attention(graph, node, shapes):
                q, k, v, context = linear
                (a, na), (b, nb), (c, nc) = (_source(graph, operand, outputs, norms) for operand in (q, k, v))
                if a and b and c:
                    sources, between = (a, b, c), (na, nb, nc)
                    yield AttentionTensors(node.index, q, k, v, "", node.output, context, sources, between)


def _product_before(graph: Graph, softmax: Node) -> Node | None:
    """The nearest product of two live operands whose scaled and masked result enters the softmax.

    Positions that are made of the queries may be added to it: they are products of one live operand.
    """
    waiting, seen = [softmax.inputs[0]], {softmax.inputs[0]}
    while waiting:
        node = graph.producer.get(waiting.pop(0))
        if node is None:
            continue
        live = [name for name in dict.fromkeys(graph.live_inputs(node)) if name not in seen]
        if node.op in _PRODUCTS and len(graph.live_inputs(node)) == 2:
            return node
        if node.op in _TO_SCORES or (node.op in _PRODUCTS and len(live) == 1):
            waiting += live
            seen.update(live)
    return None


def _product_after(graph: Graph, softmax: Node, norms: Mapping[str, Norm]) -> tuple[Node, str] | None:
    """The nearest product of the maps and another live operand, and the operand that the maps come in.

    The maps of all heads may be mixed by weights before, and normed.
    """
    starts = {norm.input: norm.output for norm in norms.values()}
    waiting, seen = [softmax.output], {softmax.output}
    while waiting:
        tensor = waiting.pop(0)
        for node in graph.uses(tensor):
            if node.op in _PRODUCTS and len(graph.live_inputs(node)) == 2:
                return node, tensor
            outputs = node.outputs if node.op in _TO_CONTEXT or node.op in _PRODUCTS else ()
            reached = [starts[tensor]] if tensor in starts else outputs
            waiting += [name for name in reached if name not in seen]
            seen.update(reached)
    return None


def _mix(graph: Graph, end: str, start: str, outputs: Mapping[str, Linear]) -> Linear | None:
    """The map over the heads on the way back from ``end`` to ``start``."""
    known = {linear.index: linear for linear in outputs.values()}
    waiting, seen = [end], {end}
    while waiting:
        tensor = waiting.pop()
        node = graph.producer.get(tensor)
        if tensor == start or node is None:
            continue
        live = list(dict.fromkeys(graph.live_inputs(node)))
        if node.op in _PRODUCTS and len(live) == 1 and start in _ancestry(graph, live[0], start):
            if node.index in known:
                return known[node.index]
            dead = graph.dead_operand(node)
            weight = graph.weight(dead) if dead else None
            if weight is not None:
                return Linear(node.index, live[0], node.output, weight, None)
        waiting += [name for name in live if name not in seen]
        seen.update(live)
    return None


def _ancestry(graph: Graph, tensor: str, start: str) -> set[str]:
    """``tensor`` and what it is made of, as far as ``start`` and two-operand products."""
    waiting, seen = [tensor], {tensor}
    while waiting:
        name = waiting.pop()
        node = graph.producer.get(name)
        if name == start or node is None or (node.op in _PRODUCTS and len(graph.live_inputs(node)) == 2):
            continue
        live = [source for source in graph.live_inputs(node) if source not in seen]
        waiting += live
        seen.update(live)
    return seen


def _around(
    graph: Graph,
    softmax: Node,
    first: Node,
    second: tuple[Node, str],
    outputs: Mapping[str, Linear],
    norms: Mapping[str, Norm],
    shapes: SiteShapes,
) -> AttentionTensors:
    product, maps = second
    value = next((name for name in product.inputs if name != maps), product.inputs[1])
    mix_scores = _mix(graph, softmax.inputs[0], first.output, outputs)
    mix_maps = _mix(graph, maps, softmax.output, outputs)
    operands = (first.inputs[0], first.inputs[1], value)
    (a, na), (b, nb), (c, nc) = (_source(graph, operand, outputs, norms) for operand in operands)
    return AttentionTensors(
        index=softmax.index,
        q=_operand(graph, operands[0], softmax.output, shapes),
        k=_operand(graph, operands[1], softmax.output, shapes, turned=True),
        v=_operand(graph, operands[2], softmax.output, shapes),
        scores=softmax.inputs[0],
        softmax=softmax.output,
        context=product.output,
        sources=(a, b, c),
        norms=(na, nb, nc),
        product=mix_scores.input if mix_scores else "",
        mixed=maps if mix_maps else "",
        mixes=(mix_scores, mix_maps),
    )


def _fused(graph: Graph, node: Node, outputs: Mapping[str, Linear], norms: Mapping[str, Norm]) -> AttentionTensors:
    q, k, v = node.inputs
    (a, na), (b, nb), (c, nc) = (_source(graph, operand, outputs, norms) for operand in node.inputs)
    return AttentionTensors(node.index, q, k, v, "", "", node.output, (a, b, c), (na, nb, nc), node.inside)


def _operand(graph: Graph, tensor: str, maps: str, shapes: SiteShapes, turned: bool = False) -> str:
    """An operand, q, k or v, as (heads, tokens, width) if the graph has it so, before it is scaled; else as it enters
    the product.

    maps: the softmax, whose heads and tokens these are. turned: the product is given (heads, width, tokens).
    """
    path = list(graph.upstream(tensor, LAYOUT | SCALE))
    scaled = [index for index, name in enumerate(path[:-1]) if graph.producer[name].op in SCALE]
    unscaled = path[scaled[-1] + 1] if scaled else tensor
    sites = [name for name in graph.upstream(unscaled, LAYOUT) if name in shapes]
    outer = shapes.trailing(maps)[:-1]
    fit = [
        name for name in sites if len(shapes.trailing(name)) == len(outer) + 1 and shapes.trailing(name)[:-1] == outer
    ]
    if chosen := shapes.first(fit[::-1] if turned else fit):
        return chosen
    return shapes.first(sites) or tensor


def _source(
    graph: Graph, operand: str, outputs: Mapping[str, Linear], norms: Mapping[str, Norm]
) -> tuple[Linear | None, Norm | None]:
    """The one linear map that an operand comes from, by whatever rotation of its elements, and a norm on the way."""
    maps, between, waiting, seen = set(), set(), [operand], {operand}
    while waiting:
        name = waiting.pop()
        node = graph.producer.get(name)
        if name in outputs:
            maps.add(name)
        elif name in norms:
            between.add(name)
            waiting.append(norms[name].input)
        elif node is not None and node.op in _TO_QKV:
            waiting += [source for source in graph.live_inputs(node) if source not in seen]
            seen.update(node.inputs)
        else:
            return None, None
    if len(maps) != 1:
        return None, None
    return outputs[maps.pop()], norms[between.pop()] if len(between) == 1 else None
