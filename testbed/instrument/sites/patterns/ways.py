"""Ways of numbers through a graph that change where they lie and nothing else: layouts, windows, shifts, crops, paddings."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.instrument.sites.pattern_graph import LAYOUT, Graph, Node

_CROPS = ("Slice", "Pad", "Gather", "Split")


def moved_from(graph: Graph, tensor: str) -> Iterator[str]:
    """``tensor``, then what its numbers were before they were laid out anew, cut into windows, shifted, padded or cropped."""
    yield tensor
    while (node := graph.producer.get(tensor)) and (before := _source(graph, node)):
        tensor = before
        yield tensor


def _source(graph: Graph, node: Node) -> str:
    live = list(dict.fromkeys(graph.live_inputs(node)))
    if node.op == "Concat":
        parts = [graph.producer.get(name) for name in live]
        whole = {graph.live_inputs(part)[0] for part in parts if part is not None and part.op == "Slice"}
        shifted = len(whole) == 1 and all(part is not None and part.op == "Slice" for part in parts)
        return whole.pop() if shifted else ""
    return live[0] if node.op in LAYOUT | {*_CROPS} and len(live) == 1 else ""


def moved_to(graph: Graph, tensor: str) -> str:
    """What ``tensor`` goes into by one such step alone; "" where it goes elsewhere, or to several places."""
    uses = graph.uses(tensor)
    if len(uses) == 1 and uses[0].op in LAYOUT | {*_CROPS}:
        return uses[0].output
    if len(uses) > 1 and all(use.op == "Slice" for use in uses):  # a shift: its parts in another order
        following = {name.output for use in uses for name in graph.uses(use.output)}
        (first, *_) = (graph.producer[name] for name in following)
        if len(following) == 1 and first.op == "Concat" and len(graph.live_inputs(first)) == len(uses):
            return first.output
    return ""
