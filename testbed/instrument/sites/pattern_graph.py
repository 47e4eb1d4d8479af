"""An ONNX graph to find patterns in: who makes a tensor, who uses it, and whether it carries the image.

A tensor is *live* when it depends on the values of the graph's input. Weights, masks, shapes and what is computed from
them alone are not, however many nodes they go through. So an operand's role is found by asking which operands are live.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto, helper

from testbed.instrument.slicing import FROM_SHAPE

# Give a tensor another shape, order or format.
LAYOUT = frozenset(("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast", "Dropout"))
SELECT = frozenset(("Split", "Slice", "Gather", "SplitToSequence", "SequenceAt"))
SCALE = frozenset(("Mul", "Div"))
_WEIGHT_PATH = LAYOUT | {"Expand", "Slice", "Tile"}


@dataclass(frozen=True)
class Node:
    """``index``: place in execution order. ``inside``: the fused operator of the file that this one is a part of."""

    index: int
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    proto: NodeProto
    inside: str = ""

    @property
    def output(self) -> str:
        return self.outputs[0]

    def attribute(self, name: str, default: Any = None) -> Any:
        attributes = [a for a in self.proto.attribute if a.name == name]
        return helper.get_attribute_value(attributes[0]) if attributes else default


@dataclass(frozen=True)
class Weight:
    """An initializer. ``turned``: what its consumer sees is the transpose of what is stored."""

    tensor: str
    turned: bool = False


class Graph:
    """Tensors whose name is in ``inside`` are not in the file: they are steps of the fused operator named there.

    ``tokens``: weights that are streams of their own, one of each for an image; see `add_tokens`.
    """

    def __init__(self, proto: ModelProto, nodes: list[Node], outputs: list[str]) -> None:
        self.nodes, self.outputs = nodes, outputs
        self.initializers: dict[str, TensorProto] = {tensor.name: tensor for tensor in proto.graph.initializer}
        self.inputs = [value.name for value in proto.graph.input if value.name not in self.initializers]
        self.producer = {name: node for node in nodes for name in node.outputs if name}
        self.consumers: dict[str, list[Node]] = {}
        for node in nodes:
            for name in dict.fromkeys(node.inputs):
                self.consumers.setdefault(name, []).append(node)
        real = {name for node in proto.graph.node for name in node.output}
        self.tokens: set[str] = set()
        self.inside = {name: node.inside for name, node in self.producer.items() if name not in real}

    @cached_property
    def live(self) -> set[str]:
        live = set(self.inputs)
        for node in self.nodes:
            if node.op not in FROM_SHAPE and any(name in live for name in node.inputs):
                live.update(node.outputs)
        return live

    def add_tokens(self, tensors: Iterable[str]) -> None:
        """Takes weights that are copied for each image for live, and with them what is made of them."""
        self.tokens |= {*tensors}
        self.live.update(self.tokens)
        for node in self.nodes:
            if node.op not in FROM_SHAPE and any(name in self.live for name in node.inputs):
                self.live.update(node.outputs)

    def live_inputs(self, node: Node) -> list[str]:
        return [name for name in node.inputs if name in self.live]

    def uses(self, tensor: str) -> list[Node]:
        """Consumers that carry its values on."""
        return [node for node in self.consumers.get(tensor, ()) if node.op not in FROM_SHAPE]

    def upstream(self, tensor: str, through: Collection[str]) -> Iterator[str]:
        """``tensor``, then what it was made from, as long as each step has one live operand and is one of ``through``."""
        yield tensor
        while (node := self.producer.get(tensor)) and node.op in through and len(self.live_inputs(node)) == 1:
            (tensor,) = self.live_inputs(node)
            yield tensor

    def downstream(self, tensor: str, through: Collection[str]) -> Iterator[Node]:
        """Nodes reached from ``tensor`` through nodes of ``through``, nearest first; those are yielded as well."""
        waiting, seen = [tensor], {tensor}
        while waiting:
            for node in self.uses(waiting.pop(0)):
                yield node
                if node.op in through:
                    waiting += [name for name in node.outputs if name not in seen]
                    seen.update(node.outputs)

    def weight(self, tensor: str) -> Weight | None:
        """The initializer that ``tensor`` is, or is a view or copy of; None where it is computed from several."""
        turned = False
        while tensor not in self.initializers:
            node = self.producer.get(tensor)
            if node is None or node.op not in _WEIGHT_PATH:
                return None
            turned ^= node.op == "Transpose"
            tensor = node.inputs[0]
        return Weight(tensor, turned and len(self.initializers[tensor].dims) == 2)

    def dead_operand(self, node: Node) -> str | None:
        """The one operand that does not carry the image."""
        dead = [name for name in node.inputs if name and name not in self.live]
        return dead[0] if len(dead) == 1 else None
