"""One element of one tensor of an ONNX graph set to a value, by hand: without the site table and without ports."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper


def with_element(proto: ModelProto, tensor: str, index: int, value: NDArray) -> ModelProto:
    """The graph with ``tensor``'s element at a flat index replaced by ``value`` (a scalar of its type), for all that
    takes the tensor.

    Raises ValueError where no node computes the tensor.
    """
    edited = ModelProto()
    edited.CopyFrom(proto)
    before, flat, changed, shape = (f"{tensor}/by-hand/{part}" for part in ("before", "flat", "changed", "shape"))
    graph = edited.graph
    number = next((i for i, node in enumerate(graph.node) if tensor in node.output), None)
    if number is None:
        raise ValueError(f"no node computes {tensor!r}")
    outputs = graph.node[number].output
    outputs[:] = [before if name == tensor else name for name in outputs]
    constants = {"every": np.array([-1]), "at": np.array([index]), "value": value.reshape(1)}
    names = {part: f"{tensor}/by-hand/{part}" for part in constants}
    graph.initializer.extend(numpy_helper.from_array(array, names[part]) for part, array in constants.items())
    nodes = [
        helper.make_node("Shape", [before], [shape]),
        helper.make_node("Reshape", [before, names["every"]], [flat]),
        helper.make_node("ScatterElements", [flat, names["at"], names["value"]], [changed], axis=0),
        helper.make_node("Reshape", [changed, shape], [tensor]),
    ]
    for offset, node in enumerate(nodes, start=1):
        graph.node.insert(number + offset, node)
    return edited
