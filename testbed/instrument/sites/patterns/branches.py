"""Branches of a transformer's stream: which joint ends an attention, which an MLP, and what their inside is made of.

Nothing is named here: this says what a part is, `block_names` and `recognise` what it is called.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from testbed.instrument.sites.layers import Linear, Norm, activation, linears, norms
from testbed.instrument.sites.pattern_graph import LAYOUT, Graph, Weight
from testbed.instrument.sites.patterns.attention import AttentionTensors
from testbed.instrument.sites.patterns.joints import SOFTMAX, Joint, joints
from testbed.instrument.sites.patterns.site_shapes import SiteShapes
from testbed.instrument.sites.patterns.ways import moved_from, moved_to

_NORM_OPS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "Sub", "ReduceMean")
_TO_PROJECTION = LAYOUT | {"Mul", *_NORM_OPS}


BranchKind = Literal["attn", "mlp", "both"]


@dataclass(frozen=True)
class MlpTensors:
    """``activated``: the activation function's output, between the two maps."""

    index: int
    first: Linear
    activated: str
    second: Linear


@dataclass(frozen=True)
class BranchEnd:
    """What a branch goes through just before it is added to the stream it came from."""

    norm: Norm | None
    scales: tuple[Weight, ...]


@dataclass(frozen=True)
class StreamStep:
    """A joint of the stream, and what branches off before it. ``part``: None where its inside is not recognised."""

    joint: Joint
    kind: BranchKind
    part: AttentionTensors | MlpTensors | None


class Branches:
    """The linear maps and norms of a graph, and the branches between them."""

    def __init__(self, graph: Graph, shapes: SiteShapes) -> None:
        self.graph, self._shapes = graph, shapes
        self.linears, self.norms = linears(graph), norms(graph)
        self._takes = {linear.input: linear for linear in self.linears.values()}
        self._norm_of = {norm.input: norm for norm in reversed(self.norms.values())}

    def steps(self, recognised: list[AttentionTensors]) -> Iterator[StreamStep]:
        """Joints without joints inside, those of the pooled vector after the blocks left out."""
        mlps, all_joints = list(self._mlps()), list(joints(self.graph))
        for joint in all_joints:
            inner = any(other.index in joint.places for other in all_joints)
            if inner or self._is_pooled(joint.stream):
                continue
            kind: BranchKind = ("both" if joint.activates else "attn") if joint.attends else "mlp"
            maps = sum(node.op in SOFTMAX for node in joint.branch)
            products = sum(linear.index in joint.places for linear in self.linears.values())
            parts: list[AttentionTensors | MlpTensors] = []
            if kind == "attn" and maps == 1:
                parts += [part for part in recognised if part.index in joint.places and self._ends(part, joint)]
            elif kind == "mlp" and products == 2:
                parts += [part for part in mlps if part.index in joint.places and self._ends(part, joint)]
            yield StreamStep(joint, kind, parts[0] if len(parts) == 1 else None)

    def _mlps(self) -> Iterator[MlpTensors]:
        for second in self.linears.values():
            activated = activation(self.graph, second.input, self.linears)
            if activated is not None:
                yield MlpTensors(activated[0].index, *activated, second)

    def _ends(self, part: AttentionTensors | MlpTensors, joint: Joint) -> bool:
        """Whether the part's last map goes straight into the joint."""
        last = part.second if isinstance(part, MlpTensors) else self.projection(part.context)
        first = part.first if isinstance(part, MlpTensors) else part.sources[0]
        return last is not None and first is not None and self.added(last.output, joint) is not None

    def added(self, tensor: str, joint: Joint) -> BranchEnd | None:
        """The way from the branch's last map to its joint; None where it ends elsewhere."""
        norm: Norm | None = None
        scales: list[Weight] = []
        while uses := self.graph.uses(tensor):
            use = uses[0]
            dead = self.graph.dead_operand(use)
            scale = self.graph.weight(dead) if dead else None
            if use.output == joint.residual:
                return BranchEnd(norm, tuple(scales))
            if tensor in self._norm_of and use.index in self._norm_of[tensor].takes:
                norm = self._norm_of[tensor]
                tensor = norm.output
            elif use.op == "Mul" and scale is not None:
                scales.append(scale)
                tensor = use.output
            elif moved := moved_to(self.graph, tensor):
                tensor = moved
            else:
                return None
        return None

    def projection(self, context: str) -> Linear | None:
        """The linear map that takes the context, laid out anew or normed on the way."""
        reached = [context, *(node.output for node in self.graph.downstream(context, _TO_PROJECTION))]
        return next((self._takes[tensor] for tensor in reached if tensor in self._takes), None)

    def norm_before(self, tensor: str) -> Norm | None:
        """The norm whose output ``tensor`` is, or is laid out from."""
        return next((self.norms[name] for name in moved_from(self.graph, tensor) if name in self.norms), None)

    def only_norm(self, tensor: str) -> Norm | None:
        """The norm that ``tensor`` goes into, if it goes nowhere else."""
        norm = self._norm_of.get(tensor)
        own = norm is not None and all(use.index in norm.takes for use in self.graph.uses(tensor))
        return norm if own else None

    def entry_norm(self, joint: Joint) -> Norm | None:
        """The norm that is all of the branch that takes the stream."""
        takes = [use for use in self.graph.uses(joint.stream) if use.index in joint.places]
        norm = self._norm_of.get(joint.stream)
        return norm if norm and norm.index in joint.places and all(use.index in norm.takes for use in takes) else None

    def _is_pooled(self, tensor: str) -> bool:
        """One vector per image: what follows is not a block of the stream but a part of the head."""
        shape = next((self._shapes.led[name] for name in self.before(tensor) if name in self._shapes.led), ())
        return len(shape) == 1 or (len(shape) == 2 and shape[0] == 1)

    def before(self, tensor: str) -> list[str]:
        """The tensor, and those with the same numbers that it is laid out from, nearest first."""
        return list(self.graph.upstream(tensor, LAYOUT))

    def after(self, tensor: str) -> list[str]:
        """The tensor, and those with the same numbers that it alone is laid out to, nearest first."""
        following = [tensor]
        while len(uses := self.graph.uses(following[-1])) == 1 and uses[0].op in LAYOUT:
            following.append(uses[0].output)
        return following
