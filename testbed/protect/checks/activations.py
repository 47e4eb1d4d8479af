"""Checks of activation functions, of which no sum is known: computed a second time, and their sums over tokens compared.

The exact GELU is held against its tanh approximation: cheaper, and another node, which engines do not merge with the
first. How far the two lie apart is known for every x, so no image without a fault raises an alarm, and what moves a sum by
less is none. Other functions are computed again by their own nodes, from the same numbers with one axis more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from onnx import ModelProto, NodeProto, helper

from testbed.core.protected import PREFIX
from testbed.instrument.cut.flow import CannotCut
from testbed.instrument.sites.layers import NONLINEAR
from testbed.protect.checks.followed import Sum, followed
from testbed.protect.checks.products import name_of
from testbed.protect.checks.relation import RECOMPUTED, Relation, Statistics, Term
from testbed.protect.checks.sums import Vectors
from testbed.protect.graph import GraphEditor

ActivationCheck = Literal["recompute", "range"]
"""How an activation function is checked: computed a second time, or by where its sum lay on the calibration images."""
TANH_LESS_EXACT = (-2.3368e-4, 4.7325e-4)
"""The smallest and the largest difference of GELU's tanh approximation and the exact function, over all x."""
_SITE = ".mlp.gelu"
_ELEMENTWISE = NONLINEAR | {"Mul", "Div", "Add", "Sub", "Pow", "Neg", "Sqrt", "Max", "Min"}
_NONLINEAR = NONLINEAR | {"FastGelu", "BiasGelu"}  # what engines fuse them to
_MAIN = ("", "ai.onnx")


def is_activation(graph: GraphEditor, node: NodeProto) -> bool:
    """GELU as one node, or the last node of the function between an MLP's two maps."""
    return node.op_type == "Gelu" or graph.named(node.output[0]).endswith(_SITE)


def activation(graph: GraphEditor, node: NodeProto, how: ActivationCheck) -> Relation:
    """Check an activation function. Raises CannotCut where it is neither GELU nor elementwise in one tensor."""
    output = followed(graph, node.output[0])
    for tensor in output.tensors:
        graph.flow.per_image(tensor)
    if how == "recompute":
        try:
            return _recomputed(graph, node, output)
        except CannotCut:
            if node.op_type != "Gelu":
                raise
    return _in_range(graph, output)


def is_computed_twice(optimised: ModelProto, site: str) -> bool:
    """Whether an engine's optimised graph still holds both of a site's functions: one goes into the sums that the other
    does not."""
    producer = {name: node for node in optimised.graph.node for name in node.output if name}
    (compared,) = (producer[name] for name in producer if name.startswith(PREFIX) and name.endswith(f".{site}.off"))
    again, first = (_above(producer, name) for name in compared.input)
    return any(producer[name].op_type in _NONLINEAR for name in again - first)


def _above(producer: Mapping[str, NodeProto], tensor: str) -> set[str]:
    """All tensors that nodes make one from, itself among them."""
    reached: set[str] = set()
    waiting = [tensor]
    while waiting:
        name = waiting.pop()
        if name in producer and name not in reached:
            reached.add(name)
            waiting += producer[name].input
    return reached


def _in_range(graph: GraphEditor, output: Sum) -> Relation:
    """Its sum lies where it lay on the calibration images.

    The sum is there anyway, for the product that comes next: this costs nothing, and sees what is far out of range.
    """

    def terms(vectors: Vectors) -> list[Term]:
        return [Term(vectors.total(end), 1.0) for end in output.tensors]

    return Relation(name_of(graph, output), "activation", output.way, lambda _: None, terms, is_range=True)


def _recomputed(graph: GraphEditor, node: NodeProto, output: Sum) -> Relation:
    """The largest difference of its sums over tokens and those of what is computed a second time."""
    made = node.output[0]
    taken, nodes = _function(graph, made)
    shape = graph.flow.per_image(made)
    (end,) = (
        output.tensors if len(output.tensors) == 1 and graph.flow.per_image(output.tensors[0]) == shape else (made,)
    )
    if graph.flow.per_image(taken) != shape:
        raise CannotCut("it is not one number for each of what it takes")
    tokens = shape[-2] if len(shape) > 1 else 1
    is_exact = [n.op_type for n in nodes] == ["Gelu"] and node.domain in _MAIN and not _is_tanh(node)
    low, high = (tokens * each for each in TANH_LESS_EXACT) if is_exact else (0.0, 0.0)

    def terms(vectors: Vectors) -> list[Term]:
        prefix = f"{vectors.prefix}.{graph.named(made)}"
        if is_exact:
            again = graph.add("Gelu", [taken], f"{prefix}.again", approximate="tanh")
        else:
            again = _computed_again(graph, nodes, taken, prefix)
        sums = vectors.over_tokens(end), vectors.over_tokens_of(again, made, f"{prefix}.again")
        off = graph.add("Sub", [sums[1].name, sums[0].name], f"{prefix}.off")
        if is_exact:
            middle = graph.constant(f"{prefix}.middle", np.array((low + high) / 2, np.float32))
            off = graph.add("Sub", [off, middle], f"{prefix}.around_middle")
        size = graph.add("Abs", [off], f"{prefix}.abs")
        largest = graph.reduce("ReduceMax", size, (2,), f"{prefix}.largest", keepdims=1)
        return [Term(vectors.product_of(largest, (1, 1)), 1.0)]

    return Relation(
        name_of(graph, output),
        RECOMPUTED,
        output.way,
        lambda vectors: vectors.over_tokens(end),
        terms,
        statistics=Statistics(1, tokens, (made,)),
        allowance=(high - low) / 2,
    )


def _is_tanh(node: NodeProto) -> bool:
    return any(a.name == "approximate" and a.s == b"tanh" for a in node.attribute)


def _function(graph: GraphEditor, made: str) -> tuple[str, list[NodeProto]]:
    """The tensor that a function is of, and its nodes. Raises CannotCut where it is of several, or not elementwise."""
    flow, indices, roots, waiting = graph.flow, set(), set(), [made]
    while waiting:
        name = waiting.pop()
        index = flow.producer.get(name)
        node = None if index is None else flow.nodes[index]
        is_inside = name == made or name not in graph.human
        if index is not None and node is not None and node.op_type in _ELEMENTWISE and is_inside:
            indices.add(index)
            waiting += flow.live_inputs(node)
        else:
            roots.add(name)
    if len(roots) != 1 or not indices:
        raise CannotCut("it is no function of one tensor, element by element")
    return roots.pop(), [flow.nodes[index] for index in sorted(indices)]


def _computed_again(graph: GraphEditor, nodes: list[NodeProto], taken: str, prefix: str) -> str:
    """The function's nodes once more: (batch, 1, ...). An engine merges nodes that take the same tensor: these take it with
    one axis more."""
    renamed = {taken: graph.add("Unsqueeze", [taken, graph.axes(1)], f"{prefix}.again.taken")}
    for number, node in enumerate(nodes):
        if any(name and name not in renamed and graph.flow.constant(name) is None for name in node.input):
            raise CannotCut("it takes numbers that are not stored")
        settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        inputs = [renamed.get(name, name) for name in node.input]
        renamed[node.output[0]] = graph.add(
            node.op_type, inputs, f"{prefix}.again.{number}", domain=node.domain, **settings
        )
    return renamed[nodes[-1].output[0]]
