"""Names of what makes the logits: one linear map, or the mean of two, a class token's and a distillation token's."""

from __future__ import annotations

from testbed.instrument.sites.layers import Linear
from testbed.instrument.sites.naming import Namer
from testbed.instrument.sites.pattern_graph import LAYOUT, SCALE, Graph
from testbed.instrument.sites.patterns.branches import Branches

_TO_LOGITS = LAYOUT | {"Softmax", "LogSoftmax", "Sigmoid"}


def name_head(graph: Graph, namer: Namer, branches: Branches) -> None:
    """Gives names to the classifiers that the first output with one is made of."""
    for name, linear in zip(("head", "head_dist"), _classifiers(graph, branches), strict=False):
        namer.add_name(name, branches.after(linear.output))
        namer.linear_weights(name, linear)


def _classifiers(graph: Graph, branches: Branches) -> list[Linear]:
    linears = branches.linears
    ends = [name for output in graph.outputs for name in graph.upstream(output, _TO_LOGITS)]
    if logits := next((linears[name] for name in ends if name in linears), None):
        return [logits]
    for end in ends:
        *_, tensor = graph.upstream(end, _TO_LOGITS | SCALE)
        node = graph.producer.get(tensor)
        two = list(dict.fromkeys(graph.live_inputs(node))) if node is not None and node.op == "Add" else []
        maps = [linears[name] for name in two if name in linears]
        if len(maps) == len(two) == 2:  # in the order in which the file adds them: the class token's comes first
            return maps
    return []


def mean_of_maps(graph: Graph, branches: Branches) -> list[Linear]:
    """The linear maps whose mean, or sum, the first output with such is; one where it is that alone."""
    for output in graph.outputs:
        *_, tensor = graph.upstream(output, _TO_LOGITS | SCALE | {"ReduceMean", "ReduceSum"})
        node = graph.producer.get(tensor)
        parts = (
            graph.live_inputs(node) if node is not None and node.op in ("Add", "Sum", "Mean", "Concat") else [tensor]
        )
        ends = [
            next(iter(name for name in graph.upstream(part, LAYOUT) if name in branches.linears), "") for part in parts
        ]
        if all(ends):
            return [branches.linears[name] for name in ends]
    return []
