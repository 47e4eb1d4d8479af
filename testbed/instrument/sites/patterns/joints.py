"""Residual joints of a graph: additions of a stream and of something that is made of that stream alone.

A transformer is a chain of them. What is between a stream and its joint, a branch, is an attention or an MLP whether or
not its inner structure is recognised, so blocks are counted by joints, never by what happened to be recognised.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from testbed.instrument.sites.fused import ATTENTION
from testbed.instrument.sites.layers import NONLINEAR
from testbed.instrument.sites.pattern_graph import Graph, Node

_ALSO_IN_NORMS = {"Exp", "Clip"}  # and in scales of attention
_PRODUCTS = ("MatMul", "Gemm", "Einsum")
SOFTMAX = ("Softmax", ATTENTION)
_NUMBERED = re.compile(r"(?:^|[/._])(blocks?|layers?|encoder_layer|resblocks|h)[._](\d+)(?=[/._]|$)")


@dataclass(frozen=True)
class Joint:
    """``branch``: nodes between the stream and the addition, in execution order. ``end``: the branch's last tensor."""

    index: int
    stream: str
    residual: str
    end: str
    branch: tuple[Node, ...] = field(repr=False)

    @property
    def places(self) -> frozenset[int]:
        return frozenset(node.index for node in self.branch)

    @property
    def attends(self) -> bool:
        return any(node.op in SOFTMAX for node in self.branch)

    @property
    def activates(self) -> bool:
        return any(node.op in NONLINEAR - _ALSO_IN_NORMS for node in self.branch)


def joints(graph: Graph) -> Iterator[Joint]:
    """Joints in execution order. A branch has a product, of a weight or of two live tensors: activation functions add,
    too."""
    for node in graph.nodes:
        live = list(dict.fromkeys(graph.live_inputs(node))) if node.op == "Add" else []
        if len(live) != 2:
            continue
        for stream, end in (live, live[::-1]):
            branch = _between(graph, end, stream)
            if branch is not None and any(made.op in _PRODUCTS or made.op == ATTENTION for made in branch):
                yield Joint(node.index, stream, node.output, end, branch)
                break


def _between(graph: Graph, end: str, stream: str) -> tuple[Node, ...] | None:
    """The live nodes that make ``end`` of ``stream``; None where it is made of anything else of the image, too."""
    nodes: dict[int, Node] = {}
    waiting = [end]
    while waiting:
        tensor = waiting.pop()
        if tensor == stream:
            continue
        node = graph.producer.get(tensor)
        if node is None:
            return None
        if node.index not in nodes:
            nodes[node.index] = node
            waiting += graph.live_inputs(node)
    return tuple(nodes[index] for index in sorted(nodes))


def ancestors(graph: Graph, tensor: str) -> set[int]:
    """Places of the live nodes that a tensor is made by."""
    indices: set[int] = set()
    waiting = [tensor]
    while waiting:
        node = graph.producer.get(waiting.pop())
        if node is not None and node.index not in indices:
            indices.add(node.index)
            waiting += graph.live_inputs(node)
    return indices


def own_numbers(graph: Graph, blocks: Sequence[Sequence[Joint]]) -> list[int]:
    """Each block's number: the file's own where its names number every block, each once and upwards; else their order."""
    by_block = [[number for joint in block if (number := _common_number(graph, joint)) is not None] for block in blocks]
    numbers = [next(iter(set(candidates)), -1) if len(set(candidates)) == 1 else -1 for candidates in by_block]
    if -1 in numbers or sorted(set(numbers)) != numbers:
        return list(range(len(blocks)))
    return numbers


def _common_number(graph: Graph, joint: Joint) -> int | None:
    """The number that most names of the branch carry: names of nodes or, where these say nothing, of weights."""
    for names in (
        [node.proto.name for node in joint.branch],
        [name for node in joint.branch for name in node.inputs if name in graph.initializers],
    ):
        counts = Counter(int(hits[-1][1]) for name in names if len(hits := _NUMBERED.findall(name)) > 0)
        if counts:
            number, count = counts.most_common(1)[0]
            return number if 2 * count > counts.total() else None
    return None
