"""The outputs of a detecting file as one tensor: its logits, and behind them a column that says whether there was an alarm.

Whatever runs the file, whole or in parts, then carries both, row by row. What is deployed has two outputs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from testbed.core.arrays import Float32s
from testbed.core.errors import TestbedError
from testbed.core.protected import DETECTED, PREFIX, PROTECTION, is_detecting

PACKED = f"{PREFIX}packed"
"""Name of the output of a packed file: float32 (batch, K + 1), the last column 1 where there was an alarm, else 0."""


class JudgedOutputs(NamedTuple):
    """Outputs apart from their alarms. values: (n, ...); alarms: (n,), None of an engine without checks of its own."""

    values: Float32s
    alarms: NDArray[np.bool_] | None

    @classmethod
    def of(cls, outputs: Float32s, output_name: str) -> JudgedOutputs:
        """Takes them apart. output_name: that of the engine, which says whether they are packed."""
        if output_name != PACKED:
            return cls(outputs, None)
        return cls(np.ascontiguousarray(outputs[:, :-1]), outputs[:, -1] != 0)


def is_packed(proto: ModelProto) -> bool:
    """Whether a file's outputs are packed."""
    return any(value.name == PACKED for value in proto.graph.output)


def with_early_checks(proto: ModelProto) -> ModelProto:
    """A packed file in whose order every check follows at once what it looks at; any other as it is."""
    if not is_packed(proto):
        return proto
    ordered = ModelProto()
    ordered.CopyFrom(proto)
    known = {""} | {value.name for value in (*proto.graph.input, *proto.graph.initializer)}
    checks = [node for node in proto.graph.node if _is_check(node)]
    nodes: list[NodeProto] = []

    def take(node: NodeProto) -> None:
        nodes.append(node)
        known.update(node.output)
        while ready := [check for check in checks if known.issuperset(check.input)]:
            for check in ready:
                nodes.append(check)
                known.update(check.output)
            checks[:] = [check for check in checks if check not in ready]

    for node in proto.graph.node:
        if not _is_check(node):
            take(node)
    nodes += checks
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del ordered.graph.node[:]
    ordered.graph.node.extend(copies)
    return ordered


def _is_check(node: NodeProto) -> bool:
    return all(name.startswith(PREFIX) or name == DETECTED for name in node.output)


def packed(model: bytes) -> bytes:
    """A detecting file, plain or twin, with one packed output in place of its first two; any other as it is.

    Raises TestbedError for a file whose outputs are not (batch, K) float32 and (batch,) bool.
    """
    if PROTECTION.encode() not in model:  # large files need not be parsed for that
        return model
    proto = onnx.load_from_string(model)
    if not is_detecting(proto):
        return model
    graph = proto.graph
    logits = graph.output[0]
    detected = next(value for value in graph.output[1:] if value.name == DETECTED)
    kinds = [(value.type.tensor_type.elem_type, len(value.type.tensor_type.shape.dim)) for value in (logits, detected)]
    if kinds != [(TensorProto.FLOAT, 2), (TensorProto.BOOL, 1)]:
        raise TestbedError(
            f"the protected file's outputs {logits.name!r} and {DETECTED!r} are not float32 (batch, classes) and bool"
            " (batch,); protect the plain model again"
        )
    axis, column = f"{PACKED}/axis", f"{PACKED}/column"
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), axis))
    graph.node.extend(
        [
            helper.make_node("Cast", [DETECTED], [f"{PACKED}/alarm"], name=f"{PACKED}/alarm", to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", [f"{PACKED}/alarm", axis], [column], name=column),
            helper.make_node("Concat", [logits.name, column], [PACKED], name=PACKED, axis=1),
        ]
    )
    batch, classes = logits.type.tensor_type.shape.dim
    size = classes.dim_value + 1 if classes.dim_value else None
    outputs = [helper.make_tensor_value_info(PACKED, TensorProto.FLOAT, [batch.dim_param or "batch", size])]
    outputs += [value for value in graph.output if value.name not in (logits.name, DETECTED)]
    inner = {value.name for value in graph.value_info}
    graph.value_info.extend(value for value in (logits, detected) if value.name not in inner)
    kept = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in outputs]
    del graph.output[:]
    graph.output.extend(kept)
    return bytes(proto.SerializeToString(deterministic=True))
