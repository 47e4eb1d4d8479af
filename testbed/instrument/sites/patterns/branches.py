"""Branches of a transformer's stream: which joint ends an attention, which an MLP, and what their inside is made of.

Nothing is named here: this says what a part is, `block_names` and `recognise` what it is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal

from testbed.instrument.sites.layers import NONLINEAR, Linear, Norm, linears, norms
from testbed.instrument.sites.pattern_graph import LAYOUT, Graph, Weight
from testbed.instrument.sites.patterns.attention import AttentionTensors
from testbed.instrument.sites.patterns.joints import SOFTMAX, Joint, between, joints
from testbed.instrument.sites.patterns.mlp import MlpTensors, is_depthwise, mlps
from testbed.instrument.sites.patterns.site_shapes import SiteShapes
from testbed.instrument.sites.patterns.ways import moved_from, moved_to

_NORM_OPS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "Sub", "ReduceMean")
_TO_PROJECTION = LAYOUT | NONLINEAR | {"Mul", "Add", "Slice", *_NORM_OPS}  # positions that are added, padding cut off
_PRODUCTS = ("MatMul", "Gemm", "Einsum")
_POOLS = ("MaxPool", "AveragePool", "BatchNormalization")
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
        """Joints without joints inside, those of the pooled vector after the blocks left out, and attentions that nothing is
        added to."""
        steps = list(self._joined(recognised))
        places = frozenset[int]().union(*(step.joint.places for step in steps))
        steps += [step for part in recognised if part.index not in places for step in self._alone(part, steps)]
        return iter(sorted(steps, key=lambda step: step.joint.index))

    def _alone(self, part: AttentionTensors, steps: list[StreamStep]) -> Iterator[StreamStep]:
        """An attention between two steps, all of which goes through it: it has fewer queries than there were tokens."""
        last = self.projection(part.context)
        before = [step for step in steps if step.joint.index < part.index]
        after = [step for step in steps if step.joint.index > part.index]
        if last is None or not before or not after or part.sources[0] is None:
            return
        start, end = before[-1].joint.residual, after[0].joint.stream
        branch = between(self.graph, end, {start})
        if branch is None or not {part.index, last.index} <= {node.index for node in branch}:
            return
        joint = Joint(last.index, start, end, end, branch, alone=True)
        if sum(node.op in SOFTMAX for node in branch) == 1 and self._ends(part, joint, False):
            yield StreamStep(joint, "attn", (part,))

    def _joined(self, recognised: list[AttentionTensors]) -> Iterator[StreamStep]:
        all_joints = list(joints(self.graph))
        projected = {linear.output for part in recognised if (linear := self.projection(part.context))}
        tokens: set[str] = set()  # the stream of a token that attends to the others
        all_mlps = list(mlps(self.graph, self.linears, self.norms))
        before: StreamStep | None = None
        for joint in all_joints:
            inner = any(other.index in joint.places for other in all_joints if not other.convolves)
            token = joint.of_others or joint.stream in tokens or self._is_attended(joint.stream, projected)
            if inner or (self._is_pooled(joint.stream) and not token):
                continue
            attends = joint.attends and any(part.index in joint.places for part in recognised)
            if joint.convolves and not attends and not self._is_mlp_after(joint, before, all_mlps):
                continue
            if token:
                tokens.add(joint.residual)
            before = self._step(joint, recognised, all_mlps)
            yield before

    def _is_mlp_after(self, joint: Joint, before: StreamStep | None, all_mlps: list[MlpTensors]) -> bool:
        """Whether a joint of convolutions is the MLP of an attention just before it: residual networks have joints, too."""
        if before is None or before.kind != "attn" or self.convolutions(joint.stream, before.joint.residual) is None:
            return False
        return len(self._step(joint, [], all_mlps).parts) == 1

    def _step(self, joint: Joint, recognised: list[AttentionTensors], all_mlps: list[MlpTensors]) -> StreamStep:
        """A branch is understood where every softmax, or every product of an MLP, is of a part that ends in the joint."""
        kind: BranchKind = ("both" if joint.activates else "attn") if joint.attends else "mlp"
        maps = sum(node.op in SOFTMAX for node in joint.branch)
        products = {linear.index for linear in self.linears.values() if linear.index in joint.places}
        attentions = [part for part in recognised if part.index in joint.places]
        followed = list(_outermost(part for part in all_mlps if part.linears <= products)) if kind != "attn" else []
        parts: tuple[BranchPart, ...] = (*attentions, *followed)
        accounted = products == frozenset[int]().union(*map(self._linears_of, parts))
        beside = len(parts) > 1
        if len(attentions) != maps or not all(self._ends(part, joint, beside) for part in parts):
            return StreamStep(joint, kind, ())
        alone = kind == "both" and len(attentions) == len(parts) == 1
        if alone and (accounted or self._is_all(attentions[0], joint)):
            kind = "attn"  # what is activated is what it is made of, or its context
        if kind == "attn":
            return StreamStep(joint, kind, parts)
        return StreamStep(joint, kind, parts if accounted else ())

    def _is_all(self, part: AttentionTensors, joint: Joint) -> bool:
        """Whether all of the branch goes through the attention's projection."""
        last = self.projection(part.context)
        return last is not None and between(self.graph, joint.end, {last.output}) is not None

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
            elif use.op == "BatchNormalization":
                tensor = use.output
            elif (beside and use.op in _SUMS) or (use.op == "Concat" and use.index in joint.places):
                tensor = use.output  # added to others, or put beside tokens that do not attend
            else:
                return None
        return None

    def projection(self, context: str) -> Linear | None:
        """The linear map that takes the context, laid out anew or normed on the way."""
        if context in self._takes:
            return self._takes[context]
        reached = (name for node in self.graph.downstream(context, _TO_PROJECTION) for name in node.outputs)
        return next((self._takes[tensor] for tensor in reached if tensor in self._takes), None)

    def shifted(self, tensor: str) -> str:
        """The tensor after a bias of its own, if one is added."""
        uses = self.graph.uses(tensor)
        biased = len(uses) == 1 and uses[0].op == "Add" and self.graph.dead_operand(uses[0]) is not None
        return uses[0].output if biased else tensor

    def norm_of_token(self, stream: str) -> Norm | None:
        """The norm of the one token that is normed before it is put together with the others to be this stream."""
        node = self.graph.producer.get(stream)
        parts = self.graph.live_inputs(node) if node is not None and node.op == "Concat" else []
        normed = [self.norms[name] for name in parts if name in self.norms]
        return normed[0] if len(normed) == 1 else None

    def norm_past_convolutions(self, tensor: str, joint: Joint) -> Norm | None:
        """The branch's norm that ``tensor`` is made of by pooling and by convolutions of each channel apart."""
        while True:
            path = list(moved_from(self.graph, tensor))
            norm = next((self.norms[name] for name in path if name in self.norms), None)
            if norm is not None:
                return norm if norm.index in joint.places else None
            tensor = path[-1]
            node = self.graph.producer.get(tensor)
            if tensor in self.linears and is_depthwise(self.graph, self.linears[tensor]):
                tensor = self.linears[tensor].input
            elif node is not None and node.op in _POOLS and len(self.graph.live_inputs(node)) == 1:
                (tensor,) = self.graph.live_inputs(node)
            else:
                return self.entry_norm(joint)

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

    def convolutions(self, end: str, start: str) -> list[Linear] | None:
        """The convolutions, channel by channel, that alone make ``end`` of ``start``; None where anything else does."""
        nodes = between(self.graph, end, {start})
        if nodes is None or any(node.op in (*SOFTMAX, *_PRODUCTS) for node in nodes):
            return None
        maps = [linear for linear in self.linears.values() if any(node.index == linear.index for node in nodes)]
        same_size = self._shape(start) == self._shape(end)
        return maps if same_size and all(is_depthwise(self.graph, linear) for linear in maps) else None

    def _shape(self, tensor: str) -> int:
        """How many numbers an image has there; 0 where that is not known."""
        return next((prod(self._shapes.led[name]) for name in self.before(tensor) if name in self._shapes.led), 0)

    def _is_pooled(self, tensor: str) -> bool:
        """One vector per image: what follows is not a block of the stream but a part of the head."""
        shape = next((self._shapes.led[name] for name in self.before(tensor) if name in self._shapes.led), ())
        return len(shape) == 1 or (len(shape) == 2 and shape[0] == 1)

    def _is_attended(self, stream: str, projected: set[str]) -> bool:
        """Whether an attention, whose projection's output this is, has made the stream: one token is then no pooled vector."""
        return not projected.isdisjoint(self.graph.upstream(stream, LAYOUT | {"BatchNormalization"}))

    def before(self, tensor: str) -> list[str]:
        """The tensor, and those with the same numbers that it is laid out from, nearest first."""
        return list(self.graph.upstream(tensor, LAYOUT))

    def after(self, tensor: str) -> list[str]:
        """The tensor, and those with the same numbers that it alone is laid out to, nearest first."""
        following = [tensor]
        while len(uses := self.graph.uses(following[-1])) == 1 and uses[0].op in LAYOUT:
            following.append(uses[0].output)
        return following


def _outermost(parts: Iterable[MlpTensors]) -> Iterator[MlpTensors]:
    """Those that are not a part of another: what is activated before a convolution is an MLP's, too, up to there."""
    every = list(parts)
    return (part for part in every if not any(part.linears < other.linears for other in every))
