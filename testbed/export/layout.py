"""Weights stored the way their product takes them, so that nothing but the product stands between a weight and its use.

Engines fold a node over a weight into a copy when they are built, and a fault in the weight would no longer be seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

TRANSPOSED = "testbed.transposed"  # metadata of our exports: JSON list of the weights that are stored transposed


_ZEROS = {"Shape", "Constant", "Expand", "CastLike"}  # what the exporter makes a bias of zeros of


def drop_zero_biases(proto: ModelProto) -> None:
    """Takes away the bias of zeros that torch's exporter computes, from the weight's shape, for a convolution without."""
    graph = proto.graph
    producers = {name: node for node in graph.node for name in node.output}
    convolutions = [
        node
        for node in graph.node
        if node.op_type == "Conv" and len(node.input) == 3 and _is_zero(node.input[2], producers)
    ]
    if not convolutions:
        return
    for convolution in convolutions:
        del convolution.input[2:]
    removed = convolutions
    while removed:
        used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        removed = [node for node in graph.node if node.op_type in _ZEROS and not used & set(node.output)]
        for node in removed:
            graph.node.remove(node)
    kept = {name for node in graph.node for name in node.output}
    values = [value for value in graph.value_info if value.name in kept]
    del graph.value_info[:]
    graph.value_info.extend(values)


def _is_zero(name: str, producers: Mapping[str, NodeProto]) -> bool:
    node = producers.get(name)
    if node is not None and node.op_type in ("CastLike", "Expand"):
        return _is_zero(node.input[0], producers)
    if node is None or node.op_type != "Constant" or node.attribute[0].name != "value":
        return False
    return not numpy_helper.to_array(node.attribute[0].t).any()


def transpose(tensor: TensorProto) -> None:
    """Turns a stored matrix."""
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array.T), tensor.name))


def fold_transposes(proto: ModelProto, turn: Callable[[TensorProto], None] = transpose) -> set[str]:
    """Replaces Transpose(weight) by the weight stored transposed; returns the names of such weights.

    A weight with further consumers is left as it is. turn: turns a stored matrix.
    """
    graph = proto.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    uses = [name for node in graph.node for name in node.input]
    folded: dict[str, str] = {}
    for node in [n for n in graph.node if n.op_type == "Transpose" and n.input[0] in weights]:
        weight = weights[node.input[0]]
        if len(weight.dims) != 2 or uses.count(weight.name) != 1:
            continue
        turn(weight)
        folded[node.output[0]] = weight.name
        graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [folded.get(name, name) for name in node.input]
    kept = [v for v in graph.value_info if v.name not in folded and v.name not in weights]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    return set(folded.values())
