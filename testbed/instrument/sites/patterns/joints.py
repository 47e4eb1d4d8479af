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
from testbed.instrument.sites.pattern_graph import LAYOUT, SELECT, Graph, Node

_ALSO_IN_NORMS = {"Exp", "Clip"}  # and in scales of attention
_PRODUCTS = ("MatMul", "Gemm", "Einsum")
SOFTMAX = ("Softmax", ATTENTION)
_POOLED = {"MaxPool", "AveragePool", "ReduceMax", "ReduceMean", "Pad", "Add", "Mul", "BatchNormalization"}
_SHORTCUT = LAYOUT | SELECT | _POOLED | {"Conv", "MatMul", "Gemm", "LayerNormalization"}
_NUMBERED = re.compile(r"(?:^|[/._])(blocks?|layers?|encoder_layer|resblocks|h)[._](\d+)(?=[/._]|$)")


@dataclass(frozen=True)
class Joint:
    """``branch``: nodes between the stream and the addition, in execution order. ``end``: the branch's last tensor.

    ``of_others``: the branch attends to other tokens than the stream's, as a class token's does in class attention.
    ``convolves``: all its products are convolutions; outside of transformers, too, there are many such joints.
    ``alone``: nothing is added, the branch is all that goes on.
    """

    index: int
    stream: str
    residual: str
    end: str
    branch: tuple[Node, ...] = field(repr=False)
    of_others: bool = False
    convolves: bool = False
    alone: bool = False

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
    residuals: set[str] = set()
    for node in graph.nodes:
        if node.op != "Add":
            continue
        joint = _plain(graph, node) or _pooling(graph, node) or _of_others(graph, node, residuals)
        if joint is not None:
            residuals.add(joint.residual)
            yield joint


def tokens(graph: Graph) -> list[str]:
    """Streams that are weights at first: class tokens that attend to the others, which begin without the image."""
    return [joint.stream for joint in joints(graph) if joint.of_others and joint.stream not in graph.live]


def _plain(graph: Graph, node: Node) -> Joint | None:
    live = list(dict.fromkeys(graph.live_inputs(node)))
    for stream, end in (live, live[::-1]) if len(live) == 2 else ():
        branch = between(graph, end, {stream})
        if branch is not None and any(made.op in _PRODUCTS or made.op == ATTENTION for made in branch):
            return Joint(node.index, stream, node.output, end, branch)
        if branch is not None and sum(made.op == "Conv" for made in branch) > 1:
            return Joint(node.index, stream, node.output, end, branch, convolves=True)
    return None


def _pooling(graph: Graph, node: Node) -> Joint | None:
    """An attention to fewer queries than the stream has tokens: the stream is pooled, or mapped to another width, too."""
    live = list(dict.fromkeys(graph.live_inputs(node)))
    for short, end in (live, live[::-1]) if len(live) == 2 else ():
        for stream in reversed(list(_shortcut(graph, short))):
            branch = between(graph, end, {stream})
            if branch is not None and any(made.op in SOFTMAX for made in branch):
                return Joint(node.index, stream, node.output, end, branch)
    return None


def _shortcut(graph: Graph, tensor: str) -> Iterator[str]:
    """What ``tensor`` is pooled, normed or, by one linear map at most, mapped from."""
    maps = 0
    while (node := graph.producer.get(tensor)) and node.op in _SHORTCUT and len(graph.live_inputs(node)) == 1:
        maps += node.op in ("Conv", "MatMul", "Gemm")
        if maps > 1:
            return
        (tensor,) = graph.live_inputs(node)
        yield tensor


def _of_others(graph: Graph, node: Node, residuals: set[str]) -> Joint | None:
    """A stream of its own, a token that is a weight at first, and an attention to the last of another stream."""
    for stream, end in (node.inputs, node.inputs[::-1]):
        made = graph.producer.get(stream)
        dead = stream not in graph.live or stream in graph.tokens
        is_token = dead and made is not None and made.op in ("Expand", "Tile")
        if end not in graph.live or not (is_token or stream in residuals):
            continue
        branch = between(graph, end, {stream, *residuals})
        if branch is not None and any(inside.op in SOFTMAX for inside in branch):
            return Joint(node.index, stream, node.output, end, branch, of_others=True)
    return None


def between(graph: Graph, end: str, starts: set[str]) -> tuple[Node, ...] | None:
    """The live nodes that make ``end`` of ``starts``; None where it is made of anything else of the image, too."""
    nodes: dict[int, Node] = {}
    waiting = [end]
    while waiting:
        tensor = waiting.pop()
        if tensor in starts:
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


def is_embedding(graph: Graph, stream: str) -> bool:
    """Nothing that a block is made of comes before the stream: no attention, no product but the patches' own."""
    made = [node for node in graph.nodes if node.index in ancestors(graph, stream)]
    products = sum(node.op in _PRODUCTS for node in made)
    return products <= 1 and not any(node.op in SOFTMAX for node in made)


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
