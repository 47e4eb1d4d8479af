"""Attention, found around a Softmax (or in place of one fused operator): q, k, v, scores, maps, context."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from testbed.instrument.sites.fused import ATTENTION
from testbed.instrument.sites.layers import Linear, Norm
from testbed.instrument.sites.pattern_graph import LAYOUT, SCALE, SELECT, Graph, Node

_PRODUCTS = ("MatMul", "FusedMatMul", "Einsum")
_TO_SCORES = LAYOUT | SCALE | {"Add", "Sub", "Where"}  # scale and mask
_TO_CONTEXT = LAYOUT | SELECT | SCALE | {"Add", "Sub", "Where", "IsNaN"}
_TO_QKV = LAYOUT | SELECT | SCALE | {"Add", "Sub", "Neg", "Concat"}  # rotary positions

SiteShapes = Mapping[str, tuple[int, ...]]
"""Tensor whose leading dimension is the batch -> its shape without it."""


@dataclass(frozen=True)
class AttentionTensors:
    """Tensor names. ``scores`` (what enters the softmax) and ``softmax`` are empty where a fused operator has them.

    ``sources``: the linear maps that make q, k and v, three times the same where they are packed. ``norms``: the layer
    norms between, where there are.
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


def attentions(
    graph: Graph, outputs: Mapping[str, Linear], norms: Mapping[str, Norm], shapes: SiteShapes
) -> Iterator[AttentionTensors]:
    """Attention modules in execution order. ``outputs``, ``norms``: linear maps and layer norms by output."""
    for node in graph.nodes:
        if node.op == ATTENTION and len(node.inputs) == 3:
            yield _fused(graph, node, outputs, norms)
        elif node.op == "Softmax" and node.inputs[0] in graph.live:
            first, second = _product_before(graph, node), _product_after(graph, node)
            if first is not None and second is not None:
                yield _around(graph, node, first, second, outputs, norms, shapes)


def _product_before(graph: Graph, softmax: Node) -> Node | None:
    """The product of two live operands whose scaled and masked result enters the softmax."""
    *_, last = graph.upstream(softmax.inputs[0], _TO_SCORES)
    node = graph.producer.get(last)
    return node if node is not None and node.op in _PRODUCTS and len(graph.live_inputs(node)) == 2 else None


def _product_after(graph: Graph, softmax: Node) -> Node | None:
    for node in graph.downstream(softmax.output, _TO_CONTEXT):
        if node.op in _PRODUCTS and len(graph.live_inputs(node)) == 2:
            return node
    return None


def _around(
    graph: Graph,
    softmax: Node,
    first: Node,
    second: Node,
    outputs: Mapping[str, Linear],
    norms: Mapping[str, Norm],
    shapes: SiteShapes,
) -> AttentionTensors:
    maps = {softmax.output, *(name for node in graph.downstream(softmax.output, _TO_CONTEXT) for name in node.outputs)}
    value = next((name for name in second.inputs if name not in maps), second.inputs[1])
    heads, tokens = (*shapes.get(softmax.output, ()), 0, 0)[:2]
    operands = (first.inputs[0], first.inputs[1], value)
    (a, na), (b, nb), (c, nc) = (_source(graph, operand, outputs, norms) for operand in operands)
    return AttentionTensors(
        index=softmax.index,
        q=_operand(graph, operands[0], heads, tokens, shapes),
        k=_operand(graph, operands[1], heads, tokens, shapes, turned=True),
        v=_operand(graph, operands[2], heads, tokens, shapes),
        scores=softmax.inputs[0],
        softmax=softmax.output,
        context=second.output,
        sources=(a, b, c),
        norms=(na, nb, nc),
    )


def _fused(graph: Graph, node: Node, outputs: Mapping[str, Linear], norms: Mapping[str, Norm]) -> AttentionTensors:
    q, k, v = node.inputs
    (a, na), (b, nb), (c, nc) = (_source(graph, operand, outputs, norms) for operand in node.inputs)
    return AttentionTensors(node.index, q, k, v, "", "", node.output, (a, b, c), (na, nb, nc), node.inside)


def _operand(graph: Graph, tensor: str, heads: int, tokens: int, shapes: SiteShapes, turned: bool = False) -> str:
    """An operand, q, k or v, as (heads, tokens, width) if the graph has it so, before it is scaled; else as it enters
    the product.

    turned: the product is given (heads, width, tokens).
    """
    path = list(graph.upstream(tensor, LAYOUT | SCALE))
    scaled = [index for index, name in enumerate(path[:-1]) if graph.producer[name].op in SCALE]
    unscaled = path[scaled[-1] + 1] if scaled else tensor
    batch_led = [name for name in graph.upstream(unscaled, LAYOUT) if name in shapes]
    fit = [name for name in batch_led if len(shapes[name]) == 3 and shapes[name][:2] == (heads, tokens)]
    if fit:
        return fit[-1] if turned else fit[0]
    return batch_led[0] if batch_led else tensor


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
