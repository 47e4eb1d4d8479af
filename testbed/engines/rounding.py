"""ONNX -> ONNX: a twin that holds fp16 or bf16 numbers at its ports, for engines that compute such files in fp32.

Such an engine widens the whole graph and rounds nowhere, so that a port would find no number of the format, and writing
one back would change the tensor. With these nodes what a port takes has been rounded first, struck or not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

_LIVE = "/live"
_FORMATS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_CONSTANTS = {
    # split: 2^(bits that fp32 has more) + 1; normal: the smallest; overflow: what rounds to infinity;
    # steps x boost: of the smallest denormal in one, in two factors as the product may be more than fp32 holds
    "fp16": {"split": 2.0**13 + 1, "normal": 2.0**-14, "overflow": 65520.0, "steps": 2.0**24, "boost": 1.0},
    "bf16": {
        "split": 2.0**16 + 1,
        "normal": 2.0**-126,
        "overflow": 2.0**128 * (1 - 2.0**-9),
        "steps": 2.0**67,
        "boost": 2.0**66,
    },
}


def rounded_ports(model: bytes, precision: str) -> bytes:
    """The file, with what enters each port rounded to fp16 or bf16 in fp32 arithmetic (a tie either way), but for ports
    of float32 tensors, as the checks of a protected file are; files without ports come back as they are."""
    proto = onnx.load_from_string(model)
    if not any(value.name == "fault_site" for value in proto.graph.input):
        return model
    wide = {v.name for v in proto.graph.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    nodes: list[NodeProto] = []
    for node in proto.graph.node:
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name.endswith(_LIVE) and name.removesuffix(_LIVE) not in wide:
                node.output[index] = f"{name}/unrounded"
                nodes.extend(_rounded(f"{name}/unrounded", name, precision))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    known = _CONSTANTS[precision]
    derived = {"step": 1 / known["steps"], "unboost": 1 / known["boost"], "one": 1.0, "infinity": np.inf}
    scales = {"down": 2.0**-32, "up": 2.0**32}  # so that no product of a finite number overflows
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.float32), f"rounding/{name}")
        for name, value in {**known, **derived, **scales}.items()
    )
    return proto.SerializeToString()


def _rounded(source: str, target: str, precision: str) -> list[NodeProto]:
    """Veltkamp's splitting for normal numbers, whole steps for denormals, infinity past the largest."""
    nodes: list[NodeProto] = []

    def op(kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{target}/rounding/{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(name: str) -> str:
        return f"rounding/{name}"

    wide = op("Cast", source, to=TensorProto.FLOAT)
    size = op("Abs", wide)
    small, moderate, finite = (op("Less", size, constant(name)) for name in ("normal", "one", "overflow"))
    scaled = op("Mul", wide, op("Where", moderate, constant("one"), constant("down")))
    product = op("Mul", scaled, constant("split"))
    split = op("Sub", product, op("Sub", product, scaled))
    normal = op("Mul", split, op("Where", moderate, constant("one"), constant("up")))
    boost, unboost = (op("Where", small, constant(name), constant("one")) for name in ("boost", "unboost"))
    steps = op("Round", op("Mul", op("Mul", wide, constant("steps")), boost))
    denormal = op("Mul", op("Mul", steps, unboost), constant("step"))
    kept = op("Where", small, denormal, normal)
    last = op("Where", finite, kept, op("Mul", wide, constant("infinity")))
    nodes.append(helper.make_node("Cast", [last], [target], to=_FORMATS[precision]))
    return nodes
