"""Names of what comes before the blocks: patches, class token, positions."""

from __future__ import annotations

from collections.abc import Mapping

from testbed.instrument.sites.layers import Linear, Norm
from testbed.instrument.sites.naming import Namer
from testbed.instrument.sites.pattern_graph import LAYOUT, SELECT, Graph, Weight


def name_embedding(
    graph: Graph, namer: Namer, linears: Mapping[str, Linear], norms: Mapping[str, Norm], stream: str, site: str = ""
) -> None:
    """Back from the first block's stream to the map that is fed the image.

    linears, norms: by output. site: what names begin with. Names of patches and tokens are given only where all the way is
    understood.
    """
    namer.add_name(f"{site}embed", list(graph.upstream(stream, LAYOUT)))
    tensor, patches, outer = stream, "", None
    claims: list[tuple[str, Weight]] = []
    while tensor not in linears:
        node = graph.producer.get(tensor)
        if tensor in norms:
            outer, tensor = norms[tensor], norms[tensor].input
            continue
        before = _one_source(graph, tensor)
        if node is None or not before:
            return
        tensor = before
        if node.op in ("Add", "Concat"):
            patches, outer = tensor, None  # a norm found before was not the patches'
            dead = [graph.weight(name) for name in node.inputs if name and name not in graph.live]
            claims += [_named(graph, node.op, weight) for weight in dead if weight is not None]
    if not set(graph.upstream(linears[tensor].input, LAYOUT | SELECT | {"Concat", *_SCALE})) & set(graph.inputs):
        inner = next((norms[n] for n in graph.upstream(linears[tensor].input, LAYOUT) if n in norms), None)
        if inner is None:
            return
    if patches:
        namer.add_name(f"{site}patch_embed", list(graph.upstream(patches, LAYOUT)))
    for name, weight in claims:
        if name:
            namer.claim(f"{site}{name}", weight)
    if patches and outer is not None:
        namer.norm_weights(f"{site}patch_embed.norm_out", outer)
    namer.linear_weights(f"{site}patch_embed.proj", linears[tensor])
    inner = next((norms[n] for n in graph.upstream(linears[tensor].input, LAYOUT) if n in norms), None)
    if inner is not None:
        namer.norm_weights(f"{site}patch_embed.norm_in", inner)


_SCALE = (
    "Sub",
    "Div",
    "Mul",
    "Add",
    "Round",
    "Clip",
    "Resize",
)  # pixels normalised, made whole or rescaled in the file


def _one_source(graph: Graph, tensor: str) -> str:
    """What a layout, an addition of a weight or a joining of tokens is made of; "" where it is none of these."""
    node = graph.producer.get(tensor)
    if node is None or node.op not in LAYOUT | {"Add", "Concat"}:
        return ""
    live = graph.live_inputs(node)
    if node.op == "Concat":  # tokens put between others take the stream apart first
        live = list(dict.fromkeys(_whole(graph, name) if len(live) > 1 else name for name in live))
    return live[0] if len(live) == 1 else ""


def _whole(graph: Graph, tensor: str) -> str:
    node = graph.producer.get(tensor)
    return graph.live_inputs(node)[0] if node is not None and node.op in ("Slice", "Split") else tensor


def _named(graph: Graph, op: str, weight: Weight) -> tuple[str, Weight]:
    """A class token is one token; register and distillation tokens have no name of ours."""
    dims = [size for size in graph.initializers[weight.tensor].dims if size > 1]
    if op == "Add":
        return ("pos_embed" if len(dims) > 1 else ""), weight
    other = any(word in weight.tensor.lower() for word in ("reg", "dist"))
    return ("cls_token" if len(dims) == 1 and not other else ""), weight
