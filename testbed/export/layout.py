"""Weights stored the way their product takes them, so that nothing but the product stands between a weight and its use.

Engines fold a node over a weight into a copy when they are built, and a fault in the weight would no longer be seen.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, numpy_helper

TRANSPOSED = "testbed.transposed"  # metadata of our exports: JSON list of the weights that are stored transposed


def fold_transposes(proto: ModelProto) -> set[str]:
    """Replaces Transpose(weight) by the weight stored transposed; returns the names of such weights.

    A weight with further consumers is left as it is.
    """
    graph = proto.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    uses = [name for node in graph.node for name in node.input]
    folded: dict[str, str] = {}
    for node in [n for n in graph.node if n.op_type == "Transpose" and n.input[0] in weights]:
        weight = weights[node.input[0]]
        array = numpy_helper.to_array(weight)
        if array.ndim != 2 or uses.count(weight.name) != 1:
            continue
        weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array.T), weight.name))
        folded[node.output[0]] = weight.name
        graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [folded.get(name, name) for name in node.input]
    kept = [v for v in graph.value_info if v.name not in folded and v.name not in weights]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    return set(folded.values())
