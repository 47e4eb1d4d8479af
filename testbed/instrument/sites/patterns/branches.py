"""Branches of a transformer's stream: which joint ends an attention, which an MLP, and what their inside is made of.

Nothing is named here: this says what a part is, `block_names` and `recognise` what it is called.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from testbed.instrument.sites.layers import Linear, Norm, linears, norms
from testbed.instrument.sites.pattern_graph import LAYOUT, Graph, Weight
from testbed.instrument.sites.patterns.attention import AttentionTensors
from testbed.instrument.sites.patterns.joints import SOFTMAX, Joint, joints
from testbed.instrument.sites.patterns.mlp import MlpTensors, mlps
from testbed.instrument.sites.patterns.site_shapes import SiteShapes
from testbed.instrument.sites.patterns.ways import moved_from, moved_to

_NORM_OPS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "Sub", "ReduceMean")
_TO_PROJECTION = LAYOUT | {"Mul", *_NORM_OPS}
_SUMS = ("Add", "Sum", "Unsqueeze", "Concat", "ReduceSum")

BranchPart = AttentionTensors | MlpTensors
BranchKind = Literal["attn", "mlp", "both"]


@dataclass(frozen=True)
class BranchEnd:
    """What a branch goes through just before it is added to the stream it came from."""

    norm: Norm | None
    scales: tuple[Weight, ...]


@dataclass(frozen=True)
class StreamStep:
    """A joint of the stream, and what branches off before it. ``parts``: none where its inside is not recognised,
    several where they are side by side."""

    joint: Joint
    kind: BranchKind
    parts: tuple[BranchPart, ...]


class Branches:
    """The linear maps and norms of a graph, and the branches between them."""

    def __init__(self, graph: Graph, shapes: SiteShapes) -> None:
        self.graph, self._shapes = graph, shapes
        self.linears, self.norms = linears(graph), norms(graph)
        self._takes = {linear.input: linear for linear in self.linears.values()}
        self._norm_of = {norm.input: norm for norm in reversed(self.norms.values())}

    def steps(self, recognised: list[AttentionTensors]) -> Iterator[StreamStep]:
        """Joints without joints inside, those of the pooled vector after the blocks left out."""
        all_joints = list(joints(self.graph))
        all_mlps = list(mlps(self.graph, self.linears, self.norms))
        for joint in all_joints:
            inner = any(other.index in joint.places for other in all_joints)
            if inner or self._is_pooled(joint.stream):
                continue
            yield self._step(joint, recognised, all_mlps)

    def _step(self, joint: Joint, recognised: list[AttentionTensors], all_mlps: list[MlpTensors]) -> StreamStep:
        """A branch is understood where every softmax, or every product of an MLP, is of a part that ends in the joint."""
        kind: BranchKind = ("both" if joint.activates else "attn") if joint.attends else "mlp"
        maps = sum(node.op in SOFTMAX for node in joint.branch)
        products = {linear.index for linear in self.linears.values() if linear.index in joint.places}
        attentions = [part for part in recognised if part.index in joint.places]
        followed = [part for part in all_mlps if part.linears <= products] if kind != "attn" else []
        parts: tuple[BranchPart, ...] = (*attentions, *followed)
        accounted = products == frozenset[int]().union(*map(self._linears_of, parts))
        beside = len(parts) > 1
        if len(attentions) != maps or not all(self._ends(part, joint, beside) for part in parts):
            return StreamStep(joint, kind, ())
        if kind == "attn":
            return StreamStep(joint, kind, parts)
        return StreamStep(joint, kind, parts if accounted else ())

    def _linears_of(self, part: BranchPart) -> frozenset[int]:
        if isinstance(part, MlpTensors):
            return part.linears
        maps = (*part.sources, self.projection(part.context))
        return frozenset(linear.index for linear in maps if linear)

    def _ends(self, part: BranchPart, joint: Joint, beside: bool) -> bool:
        """Whether the part's last map goes straight into the joint, or into a sum with its likes before it."""
        last = part.second if isinstance(part, MlpTensors) else self.projection(part.context)
        first = part.first if isinstance(part, MlpTensors) else part.sources[0]
        return last is not None and first is not None and self.added(last.output, joint, beside) is not None

    def added(self, tensor: str, joint: Joint, beside: bool = False) -> BranchEnd | None:
        """The way from the branch's last map to its joint; None where it ends elsewhere. beside: others may be added."""
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
            elif beside and use.op in _SUMS:
                tensor = use.output
            else:
                return None
        return None

    def projection(self, context: str) -> Linear | None:
        """The linear map that takes the context, laid out anew or normed on the way."""
        reached = [context, *(node.output for node in self.graph.downstream(context, _TO_PROJECTION))]
        return next((self._takes[tensor] for tensor in reached if tensor in self._takes), None)

    def shifted(self, tensor: str) -> str:
        """The tensor after a bias of its own, if one is added."""
        uses = self.graph.uses(tensor)
        biased = len(uses) == 1 and uses[0].op == "Add" and self.graph.dead_operand(uses[0]) is not None
        return uses[0].output if biased else tensor

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
