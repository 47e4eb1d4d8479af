"""The pieces a ViT is made of, found in a graph: linear maps, layer norms, activation functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from testbed.instrument.sites.pattern_graph import Graph, Node, Weight

_NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "GroupNormalization")
NONLINEAR = frozenset(
    ("Gelu", "QuickGelu", "Erf", "Tanh", "Sigmoid", "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "HardSwish", "Mish")
) | {"HardSigmoid", "Swish", "Softplus", "Exp", "Clip"}


@dataclass(frozen=True)
class Linear:
    """MatMul, Gemm or Conv by a weight, with its bias. ``index``: of the product's node."""

    index: int
    input: str
    output: str
    weight: Weight
    bias: Weight | None


@dataclass(frozen=True)
class Norm:
    """A layer norm, as one node or as many. Without a shift ``bias`` is None. ``takes``: places of what takes its input;
    is_centred: it subtracts the mean, which an RMS norm does not."""

    index: int
    input: str
    output: str
    weight: Weight | None
    bias: Weight | None
    takes: frozenset[int]
    is_centred: bool = True


def linears(graph: Graph) -> dict[str, Linear]:
    """Linear maps by output."""
    maps = (_linear(graph, node) for node in graph.nodes)
    return {linear.output: linear for linear in maps if linear is not None}


def _linear(graph: Graph, node: Node) -> Linear | None:
    if node.op not in ("MatMul", "Gemm", "Conv") or len(node.inputs) < 2 or node.inputs[0] not in graph.live:
        return None
    weight = graph.weight(node.inputs[1])
    if weight is None:
        return None
    # What is stored is the transpose of torch's (outputs, inputs) unless something turns it on the way or in the Gemm.
    stored_turned = node.op != "Conv" and len(graph.initializers[weight.tensor].dims) == 2
    turned = stored_turned and not (weight.turned ^ bool(node.attribute("transB", 0)))
    weight = Weight(weight.tensor, turned)
    if len(node.inputs) > 2:
        return Linear(node.index, node.inputs[0], node.output, weight, graph.weight(node.inputs[2]))
    output, bias = _shifted(graph, node.output) if node.op == "MatMul" else (node.output, None)
    return Linear(node.index, node.inputs[0], output, weight, bias)


def _shifted(graph: Graph, tensor: str) -> tuple[str, Weight | None]:
    """The tensor after a bias is added, and the bias; ``tensor`` itself where none is."""
    for use in _only_use(graph, tensor, "Add"):
        operand = graph.dead_operand(use)
        bias = graph.weight(operand) if operand else None
        if bias is not None and max((*graph.initializers[bias.tensor].dims, 1)) == _elements(graph, bias):
            return use.output, bias
    return tensor, None


def _scaled(graph: Graph, tensor: str) -> tuple[str, Weight | None]:
    """The tensor after it is multiplied by a weight, and the weight."""
    for use in _only_use(graph, tensor, "Mul"):
        operand = graph.dead_operand(use)
        gain = graph.weight(operand) if operand else None
        if gain is not None and _elements(graph, gain) > 1:
            return use.output, gain
    return tensor, None


def _only_use(graph: Graph, tensor: str, op: str) -> Iterator[Node]:
    uses = graph.uses(tensor)
    if len(uses) == 1 and uses[0].op == op:
        yield uses[0]


def _elements(graph: Graph, weight: Weight) -> int:
    elements = 1
    for size in graph.initializers[weight.tensor].dims:
        elements *= size
    return elements


def norms(graph: Graph) -> dict[str, Norm]:
    """Layer norms by output."""
    by_output: dict[str, Norm] = {}
    for node in graph.nodes:
        if node.op in _NORMS:
            affine = [graph.weight(name) for name in node.inputs[1:3] if name]
            weight, bias = (*affine, None, None)[:2]
            takes, is_centred = frozenset((node.index,)), node.op in ("LayerNormalization", "GroupNormalization")
            by_output[node.output] = Norm(node.index, node.inputs[0], node.output, weight, bias, takes, is_centred)
        elif norm := _decomposed_norm(graph, node) or _decomposed_rms_norm(graph, node) or _group_norm(graph, node):
            by_output[norm.output] = norm
    return by_output


def _decomposed_norm(graph: Graph, node: Node) -> Norm | None:
    """(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * gain + shift, as older exporters write it."""
    if node.op != "Sub":
        return None
    mean = graph.producer.get(node.inputs[1])
    if mean is None or mean.op != "ReduceMean" or mean.inputs[0] != node.inputs[0]:
        return None
    for use in graph.uses(node.output):
        root = graph.producer.get(use.inputs[-1])
        if use.op == "Div" and use.inputs[0] == node.output and root is not None and root.op == "Sqrt":
            gained, weight = _scaled(graph, use.output)
            output, bias = _shifted(graph, gained)
            return Norm(node.index, node.inputs[0], output, weight, bias, frozenset((node.index, mean.index)))
    return None


def _decomposed_rms_norm(graph: Graph, node: Node) -> Norm | None:
    """An RMS norm: x / sqrt(mean(x^2) + eps) * gain, or x times the reciprocal of that root."""
    if node.op not in ("Mul", "Div") or len(node.inputs) != 2:
        return None
    for x, divisor in (node.inputs, node.inputs[::-1]) if node.op == "Mul" else (node.inputs,):
        *_, root = graph.upstream(divisor, ("Reciprocal",))
        path = list(graph.upstream(root, ("Sqrt", "Add", "ReduceMean")))
        ops = [graph.producer[name].op for name in path if name in graph.producer]
        inverted = root != divisor or node.op == "Div"
        if inverted and len(path) == 4 and ops[:3] == ["Sqrt", "Add", "ReduceMean"] and ops[3:] in (["Pow"], ["Mul"]):
            square = graph.producer[path[3]]
            if set(graph.live_inputs(square)) == {x}:
                output, weight = _scaled(graph, node.output)
                return Norm(square.index, x, output, weight, None, frozenset((square.index, node.index)), False)
    return None


def _group_norm(graph: Graph, node: Node) -> Norm | None:
    """A norm of groups of channels: laid out as one channel a group, normed, laid out anew, times a gain, plus a shift."""
    if node.op != "InstanceNormalization":
        return None
    before, after = graph.producer.get(node.inputs[0]), graph.uses(node.output)
    if before is None or before.op != "Reshape" or len(after) != 1 or after[0].op != "Reshape":
        return None
    gained, weight = _scaled(graph, after[0].output)
    output, bias = _shifted(graph, gained)
    return Norm(node.index, before.inputs[0], output, weight, bias, frozenset((before.index,)))
