"""Human names for the tensors and weights of a ViT that this project did not export, found by the graph's pattern.

The names are those of our own model (``block.3.attn.q``). Blocks are counted by residual joints, whether or not their
inside is recognised; what does not fit the pattern is left without a name, and told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from onnx import ModelProto

from testbed.instrument.sites.attention import AttentionTensors, SiteShapes, attentions
from testbed.instrument.sites.embedding import name_embedding
from testbed.instrument.sites.fused import graph_of
from testbed.instrument.sites.joints import SOFTMAX, Joint, ancestors, joints, own_numbers
from testbed.instrument.sites.layers import Linear, Norm, activation, linears, norms
from testbed.instrument.sites.naming import Namer, Names
from testbed.instrument.sites.pattern_graph import LAYOUT, SELECT, Graph, Weight

_NORM_OPS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "Sub", "ReduceMean")
_POOL = LAYOUT | SELECT | {"ReduceMean", "GlobalAveragePool"}
_TO_LOGITS = LAYOUT | {"Softmax", "LogSoftmax", "Sigmoid"}
_TO_PROJECTION = LAYOUT | {"Mul", *_NORM_OPS}


@dataclass(frozen=True)
class _Mlp:
    """``activated``: the activation function's output, between the two maps."""

    index: int
    first: Linear
    activated: str
    second: Linear


@dataclass(frozen=True)
class _Added:
    """What a branch goes through just before it is added to the stream it came from."""

    norm: Norm | None
    scales: tuple[Weight, ...]


@dataclass(frozen=True)
class _Joint:
    """A joint of the stream. ``kind``: "attn", "mlp" or "both". ``part``: None where its inside is not recognised."""

    joint: Joint
    kind: str
    part: AttentionTensors | _Mlp | None


_UNKNOWN = {
    "attn": "an attention of a kind that is not recognised",
    "mlp": "a branch of a kind that is not recognised",
    "both": "attention and activation function in one branch, which is not recognised",
}


def recognise(proto: ModelProto, shapes: SiteShapes) -> Names:
    """Names of what is recognised; nothing at all where no attention is. shapes: of tensors that lead with the batch."""
    return _Recogniser(graph_of(proto), shapes).run()


class _Recogniser:
    def __init__(self, graph: Graph, shapes: SiteShapes) -> None:
        self.graph, self.shapes, self.namer = graph, shapes, Namer(graph, shapes)
        self.linears, self.norms = linears(graph), norms(graph)
        self.takes = {linear.input: linear for linear in self.linears.values()}
        self.norm_of = {norm.input: norm for norm in reversed(self.norms.values())}

    def run(self) -> Names:
        recognised = list(attentions(self.graph, self.linears, self.norms, self.shapes))
        steps = list(self._steps(recognised))
        if not any(step.part for step in steps) or not any(step.joint.attends for step in steps):
            return Names()
        if not self._is_one_stream(steps):
            return Names()
        blocks = self._blocks(steps)
        last = ""
        for number, block in zip(own_numbers(self.graph, [[s.joint for s in b] for b in blocks]), blocks, strict=True):
            for step in block:
                last = self._step(f"block.{number}", step)
            for kind in {"attn", "mlp"} - {step.kind for step in block} if block[0].kind != "both" else ():
                self.namer.lacks(f"block.{number}.{kind}", "no such branch is recognised in this block")
        self._outside(recognised, steps)
        if self._is_first(steps[0].joint.stream):
            name_embedding(self.graph, self.namer, self.linears, self.norms, steps[0].joint.stream)
        self._head(last)
        self.namer.lack("patch_embed", "embed", "norm", "head")
        return self.namer.settled()

    # ---- steps of the stream, and the blocks they make

    def _steps(self, recognised: list[AttentionTensors]) -> Iterator[_Joint]:
        """Joints without joints inside, those of the pooled vector after the blocks left out."""
        mlps, all_joints = list(self._mlps()), list(joints(self.graph))
        for joint in all_joints:
            inner = any(other.index in joint.places for other in all_joints)
            if inner or self._is_pooled(joint.stream):
                continue
            kind = ("both" if joint.activates else "attn") if joint.attends else "mlp"
            maps = sum(node.op in SOFTMAX for node in joint.branch)
            products = sum(linear.index in joint.places for linear in self.linears.values())
            parts: list[AttentionTensors | _Mlp] = []
            if kind == "attn" and maps == 1:
                parts += [part for part in recognised if part.index in joint.places and self._ends(part, joint)]
            elif kind == "mlp" and products == 2:
                parts += [part for part in mlps if part.index in joint.places and self._ends(part, joint)]
            yield _Joint(joint, kind, parts[0] if len(parts) == 1 else None)

    def _ends(self, part: AttentionTensors | _Mlp, joint: Joint) -> bool:
        """Whether the part's last map goes straight into the joint."""
        last = part.second if isinstance(part, _Mlp) else self._projection(part.context)
        first = part.first if isinstance(part, _Mlp) else part.sources[0]
        return last is not None and first is not None and self._added(last.output, joint) is not None

    def _blocks(self, steps: list[_Joint]) -> list[list[_Joint]]:
        """An attention and the MLP that follows it on the stream; where either is alone, that."""
        blocks: list[list[_Joint]] = []
        for step in steps:
            follows = bool(blocks) and self._follows(step, blocks[-1][-1])
            if step.kind == "mlp" and follows and blocks[-1][-1].kind != "mlp":
                blocks[-1].append(step)
            elif step.kind != "mlp" or follows or not blocks:
                blocks.append([step])
            else:
                self.namer.lacks(f"the MLP that ends in {step.joint.residual}", "which block it is of is not clear")
        return blocks

    def _is_one_stream(self, steps: list[_Joint]) -> bool:
        """Whether each step's stream is made of the step's before; models with several side by side have no one order."""
        places = {node.output: node.index for node in self.graph.nodes}
        return all(
            places[before.joint.residual] in ancestors(self.graph, after.joint.stream)
            for before, after in pairwise(steps)
        )

    def _follows(self, step: _Joint, before: _Joint) -> bool:
        norm = self._only_norm(before.joint.residual)
        ends = {before.joint.residual, norm.output if norm else before.joint.residual}
        return not ends.isdisjoint(self._before(step.joint.stream))

    def _step(self, block: str, step: _Joint) -> str:
        """Names a step's tensors and weights; returns the stream after it."""
        if isinstance(step.part, AttentionTensors):
            return self._attention(block, step.part, step.joint)
        if isinstance(step.part, _Mlp):
            return self._mlp(block, step.part, step.joint)
        if step.kind == "both":
            self.namer.lacks(block, _UNKNOWN["both"])
            return step.joint.residual
        self.namer.lacks(f"{block}.{step.kind}", _UNKNOWN[step.kind])
        norm = self._entry_norm(step.joint)
        if norm is not None:
            self.namer.name_norm(f"{block}.norm{1 if step.kind == 'attn' else 2}", norm)
        self.namer.add_name(f"{block}.{step.kind}.residual", [step.joint.residual])
        return step.joint.residual

    def _entry_norm(self, joint: Joint) -> Norm | None:
        """The norm that is all of the branch that takes the stream."""
        takes = [use for use in self.graph.uses(joint.stream) if use.index in joint.places]
        norm = self.norm_of.get(joint.stream)
        return norm if norm and norm.index in joint.places and all(use.index in norm.takes for use in takes) else None

    def _outside(self, recognised: list[AttentionTensors], steps: list[_Joint]) -> None:
        places = {index for step in steps for index in step.joint.places}
        if left := sum(part.index not in places for part in recognised):
            self.namer.lacks(f"{left} attention{'s' * (left > 1)}", "outside the stream of blocks")

    def _is_first(self, stream: str) -> bool:
        """Nothing that a block is made of comes before the stream: no attention, no product but the patches' own."""
        made = [node for node in self.graph.nodes if node.index in ancestors(self.graph, stream)]
        products = sum(node.op in ("MatMul", "Gemm", "Einsum") for node in made)
        return products <= 1 and not any(node.op in SOFTMAX for node in made)

    # ---- the parts that are recognised; each returns the stream after it

    def _mlps(self) -> Iterator[_Mlp]:
        for second in self.linears.values():
            activated = activation(self.graph, second.input, self.linears)
            if activated is not None:
                yield _Mlp(activated[0].index, *activated, second)

    def _attention(self, block: str, tensors: AttentionTensors, joint: Joint) -> str:
        site, add_name = f"{block}.attn", self.namer.add_name
        projection, source = self._projection(tensors.context), tensors.sources[0]
        assert projection is not None
        assert source is not None
        for name, tensor in zip("qkv", (tensors.q, tensors.k, tensors.v), strict=True):
            add_name(f"{site}.{name}", [tensor])
        for name, tensor in (("scores", tensors.scores), ("softmax", tensors.softmax)):
            if tensor:
                add_name(f"{site}.{name}", [tensor])
            else:
                self.namer.is_inside(f"{site}.{name}", tensors.inside)
        add_name(f"{site}.context", self._before(projection.input))
        self._qkv_weights(site, tensors)
        add_name(f"{site}.proj", self._after(projection.output))
        self.namer.linear_weights(f"{site}.proj", projection)
        return self._joined(site, f"{block}.norm1", source, projection, joint)

    def _qkv_weights(self, site: str, tensors: AttentionTensors) -> None:
        packed = len({source.output for source in tensors.sources if source}) == 1
        for name, source, norm in zip("qkv", tensors.sources, tensors.norms, strict=True):
            if source and (not packed or name == "q"):
                self.namer.linear_weights(f"{site}.{'qkv' if packed else name}", source)
            if norm:
                self.namer.norm_weights(f"{site}.{name}_norm", norm)

    def _mlp(self, block: str, mlp: _Mlp, joint: Joint) -> str:
        site = f"{block}.mlp"
        self.namer.add_name(f"{site}.fc1", self._after(mlp.first.output))
        self.namer.add_name(f"{site}.gelu", [mlp.activated])
        self.namer.add_name(f"{site}.fc2", self._after(mlp.second.output))
        self.namer.linear_weights(f"{site}.fc1", mlp.first)
        self.namer.linear_weights(f"{site}.fc2", mlp.second)
        return self._joined(site, f"{block}.norm2", mlp.first, mlp.second, joint)

    def _joined(self, site: str, norm_name: str, first: Linear, last: Linear, joint: Joint) -> str:
        """Names the branch's residual and norm. first, last: its outermost linear maps."""
        norm, added, after = self._norm_before(first.input), self._added(last.output, joint), None
        assert added is not None
        if joint.stream in self._before(first.input):  # fed the stream itself: normed at its end, or later
            after = None if added.norm else self._only_norm(joint.residual)
            norm = added.norm or after
        if norm is not None and not self.namer.has(norm):
            self.namer.name_norm(norm_name, norm)
        else:
            self.namer.lacks(norm_name, "no norm of this branch alone is recognised")
        self.namer.add_name(f"{site}.residual", [joint.residual])
        for scale in added.scales:
            self.namer.claim(f"{site}.layerscale", scale)
        return after.output if after else joint.residual

    def _only_norm(self, tensor: str) -> Norm | None:
        """The norm that ``tensor`` goes into, if it goes nowhere else."""
        norm = self.norm_of.get(tensor)
        own = norm is not None and all(use.index in norm.takes for use in self.graph.uses(tensor))
        return norm if own else None

    def _projection(self, context: str) -> Linear | None:
        """The linear map that takes the context, laid out anew or normed on the way."""
        reached = [context, *(node.output for node in self.graph.downstream(context, _TO_PROJECTION))]
        return next((self.takes[tensor] for tensor in reached if tensor in self.takes), None)

    def _added(self, tensor: str, joint: Joint) -> _Added | None:
        """The way from the branch's last map to its joint; None where it ends elsewhere."""
        norm: Norm | None = None
        scales: list[Weight] = []
        while uses := self.graph.uses(tensor):
            use = uses[0]
            dead = self.graph.dead_operand(use)
            scale = self.graph.weight(dead) if dead else None
            if use.output == joint.residual:
                return _Added(norm, tuple(scales))
            if tensor in self.norm_of and use.index in self.norm_of[tensor].takes:
                norm = self.norm_of[tensor]
                tensor = norm.output
            elif use.op == "Mul" and scale is not None:
                scales.append(scale)
                tensor = use.output
            elif use.op in LAYOUT:
                tensor = use.output
            else:
                return None
        return None

    def _norm_before(self, tensor: str) -> Norm | None:
        return next((self.norms[name] for name in self._before(tensor) if name in self.norms), None)

    def _is_pooled(self, tensor: str) -> bool:
        """One vector per image: what follows is not a block of the stream but a part of the head."""
        shape = next((self.shapes[name] for name in self._before(tensor) if name in self.shapes), ())
        return len(shape) == 1 or (len(shape) == 2 and shape[0] == 1)

    def _head(self, stream: str) -> None:
        """Final norm, which is all that takes the last block's stream, and classifier."""
        norms = {index for norm in self.norms.values() for index in norm.takes}
        if all(node.op in _POOL or node.index in norms for node in self.graph.downstream(stream, _POOL)):
            for norm in self.norms.values():
                if not self.namer.has(norm) and stream in self.graph.upstream(norm.input, _POOL):
                    self.namer.name_norm("norm", norm)
                    break
        ends = [name for output in self.graph.outputs for name in self.graph.upstream(output, _TO_LOGITS)]
        logits = next((self.linears[name] for name in ends if name in self.linears), None)
        if logits is not None:
            self.namer.add_name("head", self._after(logits.output))
            self.namer.linear_weights("head", logits)

    # ---- the same numbers in another shape or order

    def _before(self, tensor: str) -> list[str]:
        return list(self.graph.upstream(tensor, LAYOUT))

    def _after(self, tensor: str) -> list[str]:
        following = [tensor]
        while len(uses := self.graph.uses(following[-1])) == 1 and uses[0].op in LAYOUT:
            following.append(uses[0].output)
        return following
