"""Human names for the tensors and weights of a ViT that this project did not export, found by the graph's pattern.

The names are those of our own model (``block.3.attn.q``). What does not fit the pattern is left without one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnx import ModelProto

from testbed.instrument.attention import Attention, Shapes, attentions
from testbed.instrument.fused import graph_of
from testbed.instrument.graph import LAYOUT, SELECT, Graph, Weight
from testbed.instrument.naming import Namer, Names
from testbed.instrument.pieces import Linear, Norm, activation, linears, norms

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
class _Joint:
    """Where a branch is added to the stream it came from. ``norm``, ``scales``: what it goes through just before."""

    stream: str
    residual: str
    norm: Norm | None
    scales: tuple[Weight, ...]


def recognise(proto: ModelProto, shapes: Shapes) -> Names:
    """Names of what is recognised; nothing at all where no attention is. shapes: of tensors that lead with the batch."""
    return _Recogniser(graph_of(proto), shapes).run()


class _Recogniser:
    def __init__(self, graph: Graph, shapes: Shapes) -> None:
        self.graph, self.shapes, self.namer = graph, shapes, Namer(graph, shapes)
        self.linears, self.norms = linears(graph), norms(graph)
        self.takes = {linear.input: linear for linear in self.linears.values()}
        self.norm_of = {norm.input: norm for norm in reversed(self.norms.values())}

    def run(self) -> Names:
        found = list(attentions(self.graph, self.linears, self.norms, self.shapes))
        if not found:
            return Names()
        parts: list[Attention | _Mlp] = sorted([*found, *self._mlps()], key=lambda part: part.index)
        block, ended, first, last = -1, True, "", ""
        for part in parts:
            if isinstance(part, _Mlp) and ended and self._is_pooled(part.first.input):
                continue
            if isinstance(part, Attention) or ended:  # an MLP after an MLP is a block without attention
                block += 1
            ended = isinstance(part, _Mlp)
            name = f"block.{block}"
            ends = self._mlp(name, part) if isinstance(part, _Mlp) else self._attention(name, part)
            if ends is not None:
                first, last = first or ends[0], ends[1]
        if first:
            self._embedding(first)
        self._head(last)
        return self.namer.settled()

    # ---- blocks: each branch returns the stream before it and after it, where it joins one

    def _mlps(self) -> Iterator[_Mlp]:
        for second in self.linears.values():
            found = activation(self.graph, second.input, self.linears)
            if found is not None and self._joint(second.output, found[0].input) is not None:
                yield _Mlp(found[0].index, *found, second)

    def _attention(self, block: str, found: Attention) -> tuple[str, str] | None:
        site, place = f"{block}.attn", self.namer.place
        projection, source = self._projection(found.context), found.sources[0]
        for name, tensor in zip("qkv", (found.q, found.k, found.v), strict=True):
            place(f"{site}.{name}", [tensor])
        for name, tensor in (("scores", found.scores), ("softmax", found.softmax)):
            if tensor:
                place(f"{site}.{name}", [tensor])
            else:
                self.namer.lacks(f"{site}.{name}", found.inside)
        place(f"{site}.context", self._before(projection.input if projection else found.context))
        self._qkv_weights(site, found)
        if projection is None:
            return None
        place(f"{site}.proj", self._after(projection.output))
        self.namer.linear_weights(f"{site}.proj", projection)
        return self._joined(site, f"{block}.norm1", source, projection)

    def _qkv_weights(self, site: str, found: Attention) -> None:
        packed = len({source.output for source in found.sources if source}) == 1
        for name, source, norm in zip("qkv", found.sources, found.norms, strict=True):
            if source and (not packed or name == "q"):
                self.namer.linear_weights(f"{site}.{'qkv' if packed else name}", source)
            if norm:
                self.namer.norm_weights(f"{site}.{name}_norm", norm)

    def _mlp(self, block: str, found: _Mlp) -> tuple[str, str] | None:
        site = f"{block}.mlp"
        self.namer.place(f"{site}.fc1", self._after(found.first.output))
        self.namer.place(f"{site}.gelu", [found.activated])
        self.namer.place(f"{site}.fc2", self._after(found.second.output))
        self.namer.linear_weights(f"{site}.fc1", found.first)
        self.namer.linear_weights(f"{site}.fc2", found.second)
        return self._joined(site, f"{block}.norm2", found.first, found.second)

    def _joined(self, site: str, norm_name: str, first: Linear | None, last: Linear) -> tuple[str, str] | None:
        """Names the branch's residual and norm. first, last: its outermost linear maps."""
        if first is None:
            return None
        norm, joint = self._norm_before(first.input), self._joint(last.output, first.input)
        after = None
        if joint and joint.stream in self._before(first.input):  # fed the stream itself: normed at its end, or later
            after = None if joint.norm else self._only_norm(joint.residual)
            norm = joint.norm or after
        if norm is not None and not self.namer.has(norm):
            self.namer.place_norm(norm_name, norm)
        if joint is None:
            return None
        self.namer.place(f"{site}.residual", [joint.residual])
        for scale in joint.scales:
            self.namer.claim(f"{site}.layerscale", scale)
        return joint.stream, after.output if after else joint.residual

    def _only_norm(self, tensor: str) -> Norm | None:
        """The norm that ``tensor`` goes into, if it goes nowhere else."""
        norm = self.norm_of.get(tensor)
        own = all((norm and use.output == norm.output) or use.op in _NORM_OPS for use in self.graph.uses(tensor))
        return norm if own else None

    def _projection(self, context: str) -> Linear | None:
        """The linear map that takes the context, laid out anew or normed on the way."""
        reached = [context, *(node.output for node in self.graph.downstream(context, _TO_PROJECTION))]
        return next((self.takes[tensor] for tensor in reached if tensor in self.takes), None)

    def _joint(self, tensor: str, source: str) -> _Joint | None:
        """Where the branch that ends in ``tensor``, and whose first map is fed ``source``, joins the stream."""
        norm: Norm | None = None
        scales: list[Weight] = []
        while uses := self.graph.uses(tensor):
            use = uses[0]
            dead = self.graph.dead_operand(use)
            scale = self.graph.weight(dead) if dead else None
            if use.op == "Add" and len(set(self.graph.live_inputs(use))) == 2:
                (stream,) = set(use.inputs) - {tensor}
                return _Joint(stream, use.output, norm, tuple(scales)) if self._is_fed(source, stream) else None
            if use.op in _NORM_OPS and tensor in self.norm_of:
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

    def _is_fed(self, source: str, stream: str) -> bool:
        """``source`` is the stream, or the stream after a norm."""
        norm = self._norm_before(source)
        return stream in self._before(source) or (norm is not None and stream in self._before(norm.input))

    def _norm_before(self, tensor: str) -> Norm | None:
        return next((self.norms[name] for name in self._before(tensor) if name in self.norms), None)

    def _is_pooled(self, tensor: str) -> bool:
        """One vector per image: what follows is not a block of the stream but a part of the head."""
        shape = next((self.shapes[name] for name in self._before(tensor) if name in self.shapes), ())
        return len(shape) == 1 or (len(shape) == 2 and shape[0] == 1)

    # ---- before and after the blocks

    def _embedding(self, stream: str) -> None:
        """Back from the first block's stream: positions, class token, patches."""
        self.namer.place("embed", self._before(stream))
        tensor, patches, outer = stream, "", None
        while tensor not in self.linears:
            node = self.graph.producer.get(tensor)
            if tensor in self.norms:
                outer, tensor = self.norms[tensor], self.norms[tensor].input
                continue
            if node is None or node.op not in LAYOUT | {"Add", "Concat"} or len(self.graph.live_inputs(node)) != 1:
                return
            tensor = self.graph.live_inputs(node)[0]
            if node.op in ("Add", "Concat"):
                patches, outer = tensor, None  # a norm found before was not the patches'
                others = [self.graph.weight(name) for name in node.inputs if name not in self.graph.live]
                self.namer.claim("pos_embed" if node.op == "Add" else "cls_token", others[0] if others else None)
        if patches:
            self.namer.place("patch_embed", self._before(patches))
        if patches and outer is not None:
            self.namer.norm_weights("patch_embed.norm_out", outer)
        self.namer.linear_weights("patch_embed.proj", self.linears[tensor])
        inner = self._norm_before(self.linears[tensor].input)
        if inner is not None:
            self.namer.norm_weights("patch_embed.norm_in", inner)

    def _head(self, stream: str) -> None:
        """Final norm and classifier."""
        for norm in self.norms.values():
            if not self.namer.has(norm) and stream in self.graph.upstream(norm.input, _POOL):
                self.namer.place_norm("norm", norm)
                break
        ends = [name for output in self.graph.outputs for name in self.graph.upstream(output, _TO_LOGITS)]
        logits = next((self.linears[name] for name in ends if name in self.linears), None)
        if logits is not None:
            self.namer.place("head", self._after(logits.output))
            self.namer.linear_weights("head", logits)

    # ---- the same numbers in another shape or order

    def _before(self, tensor: str) -> list[str]:
        return list(self.graph.upstream(tensor, LAYOUT))

    def _after(self, tensor: str) -> list[str]:
        following = [tensor]
        while len(uses := self.graph.uses(following[-1])) == 1 and uses[0].op in LAYOUT:
            following.append(uses[0].output)
        return following
