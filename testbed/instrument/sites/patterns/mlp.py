"""MLPs: two linear maps and what is between them, an activation function, perhaps a gate, a convolution or a norm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from testbed.instrument.sites.layers import NONLINEAR, Linear, Norm
from testbed.instrument.sites.pattern_graph import LAYOUT, SELECT, Graph

_ELEMENTWISE = NONLINEAR | {"Mul", "Div", "Add", "Sub", "Pow", "Neg", "Sqrt", "Max", "Min", "BatchNormalization"}


@dataclass(frozen=True)
class MlpTensors:
    """``first``: the map that is activated or, where there is a ``gate``, the one whose values the activated gate is
    multiplied by. ``activated``: the activation function's output, or that product.

    ``entering``: parts of the first map's output that enter the activation function, where it is cut into parts.
    ``convolution``: between first map and activation. ``norm``: between activation and second map.
    """

    index: int
    first: Linear
    activated: str
    second: Linear
    entering: tuple[str, ...] = ()
    gate: Linear | None = None
    convolution: Linear | None = None
    norm: Norm | None = None

    @property
    def linears(self) -> frozenset[int]:
        """Places of its products."""
        maps = (self.first, self.second, self.gate, self.convolution)
        return frozenset(linear.index for linear in maps if linear)


@dataclass(frozen=True)
class _Activation:
    """``result`` = f of the ``roots``, outputs of linear maps. ``gates``: those of them that a not linear function takes."""

    result: str
    roots: frozenset[str]
    gates: frozenset[str]
    entering: tuple[str, ...]


def mlps(graph: Graph, linears: Mapping[str, Linear], norms: Mapping[str, Norm]) -> Iterator[MlpTensors]:
    """Every second map of an MLP with what comes before it. linears, norms: by output."""
    for second in linears.values():
        *_, tensor = graph.upstream(second.input, LAYOUT)
        norm = norms.get(tensor)
        activation = _activation(graph, norm.input if norm else tensor, linears)
        if activation is None or not activation.gates:
            continue
        first, gate = _maps(activation, linears)
        if first is None:
            continue
        convolution = None
        if is_depthwise(graph, first):
            convolution, first = first, _before(graph, first, linears)
            if first is None:
                continue
        yield MlpTensors(first.index, first, activation.result, second, activation.entering, gate, convolution, norm)


def _maps(activation: _Activation, linears: Mapping[str, Linear]) -> tuple[Linear | None, Linear | None]:
    """First map and gate: of two maps, the gate is the one that is activated."""
    roots = sorted(activation.roots)
    if len(roots) == 1:
        return linears[roots[0]], None
    if len(roots) == 2 and len(activation.gates) == 1:
        (gate,) = activation.gates
        (value,) = activation.roots - {gate}
        return linears[value], linears[gate]
    return None, None


def _activation(graph: Graph, tensor: str, linears: Mapping[str, Linear]) -> _Activation | None:
    """What ``tensor`` is a function of, elementwise and not linear; None where it is made in another way.

    It may be one node, or as many as an exporter writes an error function or a tanh approximation with.
    """
    *_, result = graph.upstream(tensor, LAYOUT)
    if result in linears:
        return None
    order: list[str] = []
    waiting, seen = [result], {result}
    while waiting:
        name = waiting.pop()
        order.append(name)
        node = graph.producer.get(name)
        if name in linears:
            continue
        if node is None or node.op not in _ELEMENTWISE | LAYOUT | SELECT:  # a packed gate takes half of its map
            return None
        waiting += [source for source in graph.live_inputs(node) if source not in seen]
        seen.update(node.inputs)
    roots = {name for name in order if name in linears}
    ops = {name: graph.producer[name] for name in order if name not in linears}
    gates: set[str] = set()
    for name, node in ops.items():
        if node.op in NONLINEAR:
            gates |= _roots(graph, name, linears)
    entering = tuple(sorted(name for name, node in ops.items() if node.op in SELECT))
    return _Activation(result, frozenset(roots), frozenset(gates), entering)


def _roots(graph: Graph, tensor: str, linears: Mapping[str, Linear]) -> set[str]:
    roots: set[str] = set()
    waiting, seen = [tensor], {tensor}
    while waiting:
        name = waiting.pop()
        if name in linears:
            roots.add(name)
        else:
            waiting += [source for source in graph.live_inputs(graph.producer[name]) if source not in seen]
            seen.update(waiting)
    return roots


def is_depthwise(graph: Graph, linear: Linear) -> bool:
    """Whether the map is a convolution of several groups of channels, each apart."""
    node = graph.nodes[linear.index]
    return node.op == "Conv" and int(node.attribute("group", 1)) > 1


def _before(graph: Graph, convolution: Linear, linears: Mapping[str, Linear]) -> Linear | None:
    """The map whose output the convolution takes, laid out as an image, activated or not."""
    path = graph.upstream(convolution.input, LAYOUT | NONLINEAR)
    return next((linears[name] for name in path if name in linears), None)
