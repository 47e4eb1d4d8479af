"""Quantised activations as uint8 instead of int8: the same numbers, 128 higher, with zero points 128 higher.

ONNX Runtime on x86 fuses products of uint8 activations only, and turns int8 into them by itself; but not where a check
takes the integers, too. A flip of a bit changes the number by the same in both.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, numpy_helper

_SHIFT = 128


def unsigned_activations(proto: ModelProto) -> ModelProto:
    """The file with every int8 that a QuantizeLinear makes as uint8; weights stay what they are."""
    shifted = ModelProto()
    shifted.CopyFrom(proto)
    stored = {tensor.name: tensor for tensor in shifted.graph.initializer}
    made = {node.output[0] for node in shifted.graph.node if node.op_type == "QuantizeLinear"}
    zeros = {node.input[2] for node in shifted.graph.node if node.op_type == "QuantizeLinear" and len(node.input) > 2}
    other = {
        node.input[2]
        for node in shifted.graph.node
        if node.op_type == "DequantizeLinear" and len(node.input) > 2 and node.input[0] not in made
    }
    for name in sorted(zeros & stored.keys() - other):
        zero = numpy_helper.to_array(stored[name])
        if zero.dtype == np.int8:
            moved = (zero.astype(np.int16) + _SHIFT).astype(np.uint8)
            stored[name].CopyFrom(numpy_helper.from_array(moved, name))
    kept = [value for value in shifted.graph.value_info if value.name not in made]
    del shifted.graph.value_info[:]
    shifted.graph.value_info.extend(kept)
    return shifted
