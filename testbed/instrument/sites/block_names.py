"""Names of what a block holds: q, k, v, scores, softmax and context of an attention, fc1, gelu and fc2 of an MLP, residuals,
norms and weights of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from testbed.instrument.sites.layers import Linear, Norm
from testbed.instrument.sites.naming import Namer
from testbed.instrument.sites.patterns.attention import AttentionTensors
from testbed.instrument.sites.patterns.branches import Branches, StreamStep
from testbed.instrument.sites.patterns.joints import Joint
from testbed.instrument.sites.patterns.mlp import MlpTensors
from testbed.instrument.sites.patterns.ways import moved_from

_UNKNOWN = {
    "attn": "an attention of a kind that is not recognised",
    "mlp": "a branch of a kind that is not recognised",
    "both": "attention and activation function in one branch, which is not recognised",
}


class BlockNames:
    """Gives the names of recognised branches to a namer, and tells it what is not recognised."""

    def __init__(self, branches: Branches, namer: Namer) -> None:
        self._branches, self._namer = branches, namer
        self._pre_normed: set[str] = set()  # "block.3.norm", where a norm is the first in the attention's branch

    def name_step(self, block: str, step: StreamStep) -> str:
        """Names a step's tensors and weights; returns the stream after it."""
        if not step.parts:
            return self._not_recognised(block, step)
        if len(step.parts) == 1:
            (part,) = step.parts
            if isinstance(part, AttentionTensors):
                return self._joined(
                    f"{block}.attn", f"{block}.norm1", *self._attention(f"{block}.attn", part), step.joint
                )
            return self._joined(f"{block}.mlp", f"{block}.norm2", *self._mlp(f"{block}.mlp", part), step.joint)
        return self._side_by_side(block, step)

    def _not_recognised(self, block: str, step: StreamStep) -> str:
        if step.kind == "both":
            self._namer.lacks(block, _UNKNOWN["both"])
            return step.joint.residual
        self._namer.lacks(f"{block}.{step.kind}", _UNKNOWN[step.kind])
        norm = self._branches.entry_norm(step.joint)
        if norm is not None:
            self._namer.name_norm(f"{block}.norm{1 if step.kind == 'attn' else 2}", norm)
        self._namer.add_name(f"{block}.{step.kind}.residual", [step.joint.residual])
        return step.joint.residual

    def _side_by_side(self, block: str, step: StreamStep) -> str:
        """Branches that are added up before the joint: of several of one kind, each has a number."""
        kinds = ["attn" if isinstance(part, AttentionTensors) else "mlp" for part in step.parts]
        numbers = Counter[str]()
        packed = self._packed(step)
        for kind, part in zip(kinds, step.parts, strict=True):
            number = f".{numbers[kind]}" if kinds.count(kind) > 1 else ""
            numbers[kind] += 1
            site = f"{block}.{kind}{number}"
            if isinstance(part, AttentionTensors):
                first, last = self._attention(site, part, packed)
            else:
                first, last = self._mlp(site, part, packed)
            end = self._branches.added(last.output, step.joint, beside=True)
            norm = self._branches.norm_before(first.input)
            if norm is not None and not self._namer.has(norm):
                self._namer.name_norm(f"{block}.norm1" if len(set(kinds)) > 1 else f"{site}.norm", norm)
            for scale in end.scales if end else ():
                self._namer.claim(f"{site}.layerscale", scale)
        if packed is not None:
            self._namer.add_name(f"{block}.in_proj", self._branches.after(packed.output))
            self._namer.linear_weights(f"{block}.in_proj", packed)
        residual = f"{block}.residual" if len(set(kinds)) > 1 else f"{block}.{kinds[0]}.residual"
        self._namer.add_name(residual, [step.joint.residual])
        return step.joint.residual

    def _packed(self, step: StreamStep) -> Linear | None:
        """The one map that makes q, k, v and the MLP's first values, where there is such a one."""
        firsts = {part.first for part in step.parts if isinstance(part, MlpTensors)}
        return next((s for p in step.parts if isinstance(p, AttentionTensors) for s in p.sources if s in firsts), None)

    def _attention(self, site: str, tensors: AttentionTensors, packed: Linear | None = None) -> tuple[Linear, Linear]:
        """Names what an attention holds; returns its outermost maps. packed: a map that is not its own."""
        add_name = self._namer.add_name
        projection, source = self._branches.projection(tensors.context), tensors.sources[0]
        assert projection is not None
        assert source is not None
        for name, tensor in zip("qkv", (tensors.q, tensors.k, tensors.v), strict=True):
            add_name(f"{site}.{name}", [tensor])
        for name, tensor in (("scores", tensors.scores), ("softmax", tensors.softmax)):
            if tensor:
                add_name(f"{site}.{name}", [tensor])
            elif tensors.inside:
                self._namer.is_inside(f"{site}.{name}", tensors.inside)
            else:
                self._namer.lacks(f"{site}.{name}", "queries and keys are not multiplied: the attention is linear")
        for name, tensor in (("product", tensors.product), ("mixed", tensors.mixed)):
            if tensor:
                add_name(f"{site}.{name}", self._branches.before(tensor))
        for name, mix in zip(("mix_scores", "mix_maps"), tensors.mixes, strict=True):
            if mix is not None:
                self._namer.linear_weights(f"{site}.{name}", mix)
        add_name(f"{site}.context", self._branches.before(projection.input))
        self._qkv_weights(site, tensors, packed)
        add_name(f"{site}.proj", self._branches.after(projection.output))
        self._namer.linear_weights(f"{site}.proj", projection)
        return source, projection

    def _qkv_weights(self, site: str, tensors: AttentionTensors, packed: Linear | None) -> None:
        """Named after all that one map makes: qkv, kv, or each alone."""
        made_by: dict[str, list[str]] = {}
        for name, source, norm in zip("qkv", tensors.sources, tensors.norms, strict=True):
            if source and source != packed:
                made_by.setdefault(source.output, []).append(name)
            if norm:
                self._namer.norm_weights(f"{site}.{name}_norm", norm)
        for source in {source.output: source for source in tensors.sources if source and source != packed}.values():
            self._namer.linear_weights(f"{site}.{''.join(made_by[source.output])}", source)

    def _mlp(self, site: str, mlp: MlpTensors, packed: Linear | None = None) -> tuple[Linear, Linear]:
        """Names what an MLP holds; returns its outermost maps. packed: a map that is not its own."""
        maps = {"fc1": mlp.first, "fc2": mlp.second}
        if mlp.gate is not None:
            maps = {"fc1_gate": mlp.gate, "fc1_value": mlp.first, "fc2": mlp.second}
        if mlp.convolution is not None:
            maps["conv"] = mlp.convolution
        for name, linear in maps.items():
            if linear == packed:
                self._namer.add_name(f"{site}.{name}", [self._branches.shifted(part) for part in mlp.entering])
            else:
                self._namer.add_name(f"{site}.{name}", self._branches.after(linear.output))
                self._namer.linear_weights(f"{site}.{name}", linear)
        self._namer.add_name(f"{site}.gelu", [mlp.activated])
        if mlp.norm is not None:
            self._namer.name_norm(f"{site}.norm", mlp.norm)
        return mlp.first, mlp.second

    def _joined(self, site: str, norm_name: str, first: Linear, last: Linear, joint: Joint) -> str:
        """Names the branch's residual and norm. first, last: its outermost linear maps."""
        norm, added, after = self._branches.norm_before(first.input), self._branches.added(last.output, joint), None
        assert added is not None
        fed_stream = joint.stream in moved_from(self._branches.graph, first.input)
        if fed_stream and not self._norms_the_stream(norm, site, norm_name):  # normed at its end, or later
            pre_normed = norm_name.removesuffix("2") in self._pre_normed
            after = None if pre_normed or added.norm else self._branches.only_norm(joint.residual)
            norm = added.norm or after
        elif norm_name.endswith("1"):
            self._pre_normed.add(norm_name.removesuffix("1"))
        if norm is None and norm_name.endswith("2"):
            norm = self._branches.norm_of_token(joint.stream)
        if norm is None and not fed_stream:
            norm = self._branches.norm_past_convolutions(first.input, joint)
        if norm is not None and not self._namer.has(norm):
            self._namer.name_norm(norm_name, norm)
        else:
            self._namer.lacks(norm_name, "no norm of this branch alone is recognised")
        if joint.alone:
            self._namer.lacks(f"{site}.residual", "nothing is added to this attention")
        else:
            self._namer.add_name(f"{site}.residual", [joint.residual])
        for scale in added.scales:
            self._namer.claim(f"{site}.layerscale", scale)
        return after.output if after else joint.residual

    def _norms_the_stream(self, norm: Norm | None, site: str, norm_name: str) -> bool:
        """Whether the stream between attention and MLP is this norm's output: no branch takes it without."""
        return (
            norm is not None
            and norm_name == f"{site.removesuffix('.mlp')}.norm2"
            and (
                not self._namer.has(norm)
                and self._namer.name_of(norm.input) == f"{site.removesuffix('.mlp')}.attn.residual"
            )
        )

    def name_convolutions(self, block: str, convolutions: Sequence[Linear]) -> None:
        """Names convolutions of the stream itself, between a block's attention and its MLP."""
        for number, convolution in enumerate(convolutions):
            name = f"{block}.conv.{number}" if len(convolutions) > 1 else f"{block}.conv"
            self._namer.add_name(name, [convolution.output])
            self._namer.linear_weights(name, convolution)
