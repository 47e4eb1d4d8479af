"""Fused operators taken apart, for recognition only: patterns then know one vocabulary.

The tensors between the parts are not in the file, so nothing can be struck there; recognition says so by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnx import ModelProto, NodeProto, helper

from testbed.instrument.quantised import PLAIN, QUANTISING
from testbed.instrument.sites.pattern_graph import Graph, Node

ATTENTION = "fused attention"  # operands q, k, v: their scores and maps are not in the file
_MICROSOFT = ("com.microsoft", "com.microsoft.nchwc")
Tensors = tuple[str, ...]
OperatorPart = tuple[str, Sequence[str], Sequence[str]]


def graph_of(proto: ModelProto) -> Graph:
    """The main graph: fused operators taken apart, quantised ones as what they compute, QuantizeLinear, DequantizeLinear
    and DynamicQuantizeLinear left out."""
    rescaled = _rescaled(proto)
    nodes: list[Node] = []
    same: dict[str, str] = {}  # tensor -> the one it is a quantised copy of
    for node in proto.graph.node:
        inputs = tuple(same.get(name, name) for name in node.input)
        if node.op_type in QUANTISING:
            same[node.output[0]] = inputs[0]
            continue
        if node.output[0] in rescaled.values():
            continue
        if node.op_type in PLAIN:
            op, operands = PLAIN[node.op_type](inputs)
            output = node.output[0]
            while output in rescaled:
                output = rescaled[output]
            made = helper.make_node(op, operands, [output])
            made.attribute.extend(node.attribute)
            nodes.append(Node(len(nodes), op, tuple(operands), (output,), made))
            continue
        split = _SPLIT.get((node.domain in _MICROSOFT, node.op_type))
        if split is None:
            like = node.op_type == "CastLike"  # its second operand gives the type only
            op, inputs = ("Cast", inputs[:1]) if like else (node.op_type, inputs)
            nodes.append(Node(len(nodes), op, inputs, tuple(node.output), node))
            continue
        for op, operands, outputs in split(inputs, tuple(node.output)):
            part = helper.make_node(op, operands, outputs)
            nodes.append(Node(len(nodes), op, tuple(operands), tuple(outputs), part, node.op_type))
    return Graph(proto, nodes, [same.get(value.name, value.name) for value in proto.graph.output])


def _rescaled(proto: ModelProto) -> dict[str, str]:
    """What a product of integers goes through to be a float again, a Cast and a Mul by the scales: tensor -> the next."""
    uses: dict[str, list[NodeProto]] = {}
    for node in proto.graph.node:
        for name in node.input:
            uses.setdefault(name, []).append(node)
    rescaled: dict[str, str] = {}
    for node in proto.graph.node:
        if node.op_type in ("MatMulInteger", "ConvInteger"):
            tensor, following = node.output[0], ["Cast", "Mul"]
            for op in following:
                if len(then := uses.get(tensor, [])) != 1 or then[0].op_type != op:
                    break
                rescaled[tensor] = then[0].output[0]
                tensor = then[0].output[0]
    return rescaled


def _hidden(outputs: Tensors, part: str) -> str:
    return f"{outputs[0]}/inside/{part}"


def _attention_with_weights(inputs: Tensors, outputs: Tensors) -> list[OperatorPart]:
    """The operator com.microsoft Attention: (x, weights of q, k and v, bias) -> context."""
    product, packed = _hidden(outputs, "product"), _hidden(outputs, "qkv")
    parts: list[OperatorPart] = [("MatMul", inputs[:2], [product])]
    if any(inputs[2:3]):
        parts.append(("Add", [product, inputs[2]], [packed]))
    else:
        packed = product
    qkv = [_hidden(outputs, name) for name in ("q", "k", "v")]
    return [*parts, ("Split", [packed], qkv), (ATTENTION, qkv, outputs[:1])]


def _attention(inputs: Tensors, outputs: Tensors) -> list[OperatorPart]:
    """(q, k, v, ...) -> context: Attention of opset 23, com.microsoft MultiHeadAttention."""
    return [(ATTENTION, inputs[:3], outputs[:1])]


def _skip_norm(inputs: Tensors, outputs: Tensors) -> list[OperatorPart]:
    """The operator com.microsoft SkipLayerNormalization: (x, skip, gain, shift, bias of x) -> norm(x + bias + skip),
    ..., sum."""
    x, total = inputs[0], "".join(outputs[3:4]) or _hidden(outputs, "sum")
    parts: list[OperatorPart] = []
    if any(inputs[4:5]):
        parts.append(("Add", [x, inputs[4]], [x := _hidden(outputs, "biased")]))
    affine = [name for name in inputs[2:4] if name]
    return [*parts, ("Add", [x, inputs[1]], [total]), ("LayerNormalization", [total, *affine], outputs[:1])]


def _bias_gelu(inputs: Tensors, outputs: Tensors) -> list[OperatorPart]:
    """The operators com.microsoft BiasGelu, FastGelu: (x, bias) -> gelu(x + bias)."""
    if not any(inputs[1:2]):
        return [("Gelu", inputs[:1], outputs)]
    biased = _hidden(outputs, "biased")
    return [("Add", inputs[:2], [biased]), ("Gelu", [biased], outputs)]


_SPLIT: dict[tuple[bool, str], Callable[[Tensors, Tensors], list[OperatorPart]]] = {
    (True, "Attention"): _attention_with_weights,
    (True, "MultiHeadAttention"): _attention,
    (False, "Attention"): _attention,
    (True, "SkipLayerNormalization"): _skip_norm,
    (True, "BiasGelu"): _bias_gelu,
    (True, "FastGelu"): _bias_gelu,
}
