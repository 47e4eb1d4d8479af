"""The part of an ONNX graph that some tensors are computed by, and the copy of a graph that holds only that part."""

from __future__ import annotations

from collections.abc import Collection

from onnx import ModelProto, NodeProto

FROM_SHAPE = ("Shape", "Size")
"""Operators that take a tensor's shape alone, none of its values."""


def backward_slice(
    proto: ModelProto, outputs: Collection[str], given: Collection[str] = ()
) -> tuple[list[NodeProto], set[str]]:
    """Nodes that compute ``outputs`` from ``given`` (and the graph's own inputs and weights), in execution order; and every
    tensor that they take or give."""
    nodes, needed = [], set(outputs)
    for node in reversed(proto.graph.node):
        if any(name in needed and name not in given for name in node.output):
            nodes.append(node)
            needed.update(node.input)
    return nodes[::-1], needed


def descendants(proto: ModelProto, tensor: str) -> set[str]:
    """Tensors that depend on ``tensor``, without itself."""
    reached = {tensor}
    for node in proto.graph.node:
        if reached.intersection(node.input):
            reached.update(node.output)
    return reached - {tensor}
