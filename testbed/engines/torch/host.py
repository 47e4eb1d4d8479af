"""Which values of a graph are the host's business: the shapes, axes and bounds that its operators are told.

PyTorch takes those as Python's numbers. On a GPU each would have to be copied there and waited for on its way back, in every
run; kept on the host, the arithmetic of shapes costs the GPU nothing, and no bit of any tensor is another one.
"""

from __future__ import annotations

from collections import defaultdict

from onnx import ModelProto, NodeProto

_TOLD = {  # operator -> positions of inputs that only say how
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Range": (0, 1, 2),
    "ReduceMean": (1,),
    "Reshape": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
}


def host_values(proto: ModelProto) -> set[str]:
    """Names of the values that nothing but such inputs is made of: each use is one, or belongs to a node that makes only
    such values out of only such values (or out of a tensor's shape)."""
    graph = proto.graph
    fed = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    uses: dict[str, list[tuple[NodeProto, int]]] = defaultdict(list)
    for node in graph.node:
        for position, name in enumerate(node.input):
            uses[name].append((node, position))
    candidates = {t.name for t in graph.initializer} | {name for node in graph.node for name in node.output}
    host = candidates - fed - {output.name for output in graph.output} - {""}
    before = -1
    while len(host) != before:  # what is no longer a candidate takes with it what it is made of or used with
        before = len(host)
        host = {name for name in host if all(_is_told(node, position, host) for node, position in uses[name])}
        for node in graph.node:
            if node.op_type != "Shape" and not host.issuperset(filter(None, node.input)):
                host.difference_update(node.output)
    return host


def _is_told(node: NodeProto, position: int, host: set[str]) -> bool:
    return position in _TOLD.get(node.op_type, ()) or host.issuperset(filter(None, node.output))
