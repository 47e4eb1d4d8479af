"""A protected file as it was before, to recognise its sites by: what protection put between two operators is not there."""

from __future__ import annotations

from onnx import ModelProto

from testbed.core.protected import DETECTED, PREFIX, is_protected


def without_protection(proto: ModelProto) -> ModelProto:
    """The graph without protection's own nodes, to be looked at, not run; any other file as it is.

    Where a model's operator takes a corrected tensor, it takes the latest of the model's own that this is made from.
    """
    if not is_protected(proto):
        return proto
    plain = ModelProto()
    plain.CopyFrom(proto)
    graph = plain.graph
    order = {name: index for index, node in enumerate(graph.node) for name in node.output}
    stands_for: dict[str, str] = {}
    kept = []
    for node in graph.node:
        taken = [stands_for.get(name, name) for name in node.input]
        if all(name.startswith(PREFIX) or name == DETECTED for name in node.output):
            own = max((name for name in taken if name in order), key=order.__getitem__, default="")
            stands_for |= dict.fromkeys(node.output, own)
        else:
            node.input[:] = taken
            kept.append(node)
    copies = [type(node).FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(copies)
    outputs = [value for value in graph.output if value.name != DETECTED]
    for value in outputs:
        value.name = stands_for.get(value.name, value.name)
    values = [type(value).FromString(value.SerializeToString()) for value in outputs]
    del graph.output[:]
    graph.output.extend(values)
    return plain
