"""Quantised files: which initializers are stored weights, how many parameters they are, what quantised operators compute.

Four ways of writing one: QuantizeLinear and DequantizeLinear around float operators (of ONNX's own domain, or of
com.microsoft's), operators on integers (QLinearMatMul, ...), activations quantised at run time (DynamicQuantizeLinear,
MatMulInteger), weights packed in blocks of 4 bits (MatMulNBits).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from onnx import ModelProto, NodeProto, TensorProto

from testbed.core.site import SiteTable

PlainOperator = tuple[str, Sequence[str]]
"""An operator, and the operands of a quantised one that it has: without scales and zero points."""

QUANTISING = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
INTEGERS = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16, TensorProto.INT32)
_NARROW = (TensorProto.INT4, TensorProto.UINT4)
PACKED = "MatMulNBits"


def _matmul(i: Sequence[str]) -> PlainOperator:
    return "MatMul", (i[0], i[3])


def _conv(i: Sequence[str]) -> PlainOperator:
    return "Conv", (i[0], i[3], *i[8:9])


def _gemm(i: Sequence[str]) -> PlainOperator:
    return "Gemm", (i[0], i[3], *i[6:7])


def _pair(op: str) -> Callable[[Sequence[str]], PlainOperator]:
    return lambda i: (op, (i[0], i[3]))


def _unary(op: str) -> Callable[[Sequence[str]], PlainOperator]:
    return lambda i: (op, (i[0],))


def _with_bias(position: int) -> Callable[[Sequence[str]], PlainOperator]:
    return lambda i: (
        ("Gemm", (i[0], i[1], i[position])) if any(i[position : position + 1]) else ("MatMul", (i[0], i[1]))
    )


PLAIN: dict[str, Callable[[Sequence[str]], PlainOperator]] = {
    "QLinearMatMul": _matmul,
    "QLinearConv": _conv,
    "QGemm": _gemm,
    "QLinearAdd": _pair("Add"),
    "QLinearMul": _pair("Mul"),
    "QLinearSoftmax": _unary("Softmax"),
    "QLinearSigmoid": _unary("Sigmoid"),
    "QLinearLeakyRelu": _unary("LeakyRelu"),
    "QLinearReduceMean": _unary("ReduceMean"),
    "QLinearGlobalAveragePool": _unary("GlobalAveragePool"),
    "QLinearConcat": lambda i: ("Concat", i[2::3]),
    "MatMulInteger": lambda i: ("MatMul", (i[0], i[1])),
    "ConvInteger": lambda i: ("Conv", (i[0], i[1])),
    "DynamicQuantizeMatMul": _with_bias(4),
    "MatMulIntegerToFloat": _with_bias(6),
    PACKED: _with_bias(5),
}
"""Quantised operator -> what it computes."""


def is_quantised(proto: ModelProto) -> bool:
    return any(node.op_type in QUANTISING or node.op_type in PLAIN for node in proto.graph.node)


def stored_weights(proto: ModelProto) -> list[TensorProto]:
    """Initializers whose numbers a fault can strike: floats and, in a quantised file, whole numbers; none without a number, as
    of a model that has no class token."""
    kinds = (*FLOATS, *INTEGERS) if is_quantised(proto) else FLOATS
    return [tensor for tensor in proto.graph.initializer if tensor.data_type in kinds and 0 not in tensor.dims]


def not_storable(proto: ModelProto, tensor: str) -> str:
    """Why an initializer's numbers cannot be struck one by one; "" where they can."""
    packed = any(node.op_type == PACKED and tensor in node.input[1:2] for node in proto.graph.node)
    if packed:
        return "packed in blocks of few bits, of which no site can be made"
    stored = next(t for t in proto.graph.initializer if t.name == tensor)
    if stored.data_type in (*FLOATS, *INTEGERS):
        return ""
    return (
        f"stored as {TensorProto.DataType.Name(stored.data_type).lower()}, which is no number format that faults strike"
    )


def parameters(proto: ModelProto) -> int:
    """The model's: of a quantised file, the integers that stand for weights and biases, not scales and zero points."""
    values, about = _roles(proto.graph.node)
    counted = 0
    for tensor in proto.graph.initializer:
        size = math.prod(tensor.dims)
        is_parameter = tensor.data_type in FLOATS or (
            tensor.data_type in (*INTEGERS, *_NARROW) and tensor.name in values
        )
        if is_parameter and tensor.name not in about and tensor.dims and size > 1:
            counted += values.get(tensor.name, 1) * size
    return counted


def _roles(nodes: Sequence[NodeProto]) -> tuple[dict[str, int], set[str]]:
    """Integers that are multiplied or dequantised -> numbers in each of its words; and scales and zero points."""
    values: dict[str, int] = {}
    about: set[str] = set()
    measured = {node.output[1] for node in nodes if node.op_type == "DynamicQuantizeLinear"}  # scales of activations
    for node in nodes:
        if node.op_type == "Mul" and measured.intersection(node.input):
            about |= set(node.input)  # by weights' own scales
            continue
        if node.op_type in QUANTISING:
            operands: Sequence[str] = node.input[:1]
        elif node.op_type in PLAIN:
            operands = PLAIN[node.op_type](list(node.input))[1]
        else:
            continue
        numbers = 8 // _bits(node) if node.op_type == PACKED else 1
        values |= dict.fromkeys(operands, numbers)
        about |= set(node.input) - set(operands)
    return values, about - values.keys()


def _bits(node: NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "bits"), 4)


def number_format_of(table: SiteTable) -> tuple[str, tuple[str, ...]]:
    """The number format, for people, and the campaign's precisions that it goes by: none where none does.

    A file with weights of 8 bits and activations that are quantised at run time, or never, goes by both.
    """
    activations, weights = ({site.format_name for site in table if site.where == w} for w in ("activation", "weight"))
    if wide := next((name for name in ("int16", "uint16") if name in activations | weights), ""):
        return wide, ()
    if whole := next((name for name in ("int8", "uint8") if name in activations), ""):
        return whole, ("int8",)
    widest = next((name for name in ("bf16", "fp16") if name in activations), "fp32")
    narrow = next((name for name in ("int8", "uint8") if name in weights), "")
    return (f"{widest} with {narrow} weights", ("int8", widest)) if narrow else (widest, (widest,))
