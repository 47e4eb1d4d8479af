"""Names of what a block holds: q, k, v, scores, softmax and context of an attention, fc1, gelu and fc2 of an MLP, residuals,
norms and weights of both."""

from __future__ import annotations

from testbed.instrument.sites.layers import Linear
from testbed.instrument.sites.naming import Namer
from testbed.instrument.sites.patterns.attention import AttentionTensors
from testbed.instrument.sites.patterns.branches import Branches, MlpTensors, StreamStep
from testbed.instrument.sites.patterns.joints import Joint
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

    def name_step(self, block: str, step: StreamStep) -> str:
        """Names a step's tensors and weights; returns the stream after it."""
        if isinstance(step.part, AttentionTensors):
            return self._attention(block, step.part, step.joint)
        if isinstance(step.part, MlpTensors):
            return self._mlp(block, step.part, step.joint)
        if step.kind == "both":
            self._namer.lacks(block, _UNKNOWN["both"])
            return step.joint.residual
        self._namer.lacks(f"{block}.{step.kind}", _UNKNOWN[step.kind])
        norm = self._branches.entry_norm(step.joint)
        if norm is not None:
            self._namer.name_norm(f"{block}.norm{1 if step.kind == 'attn' else 2}", norm)
        self._namer.add_name(f"{block}.{step.kind}.residual", [step.joint.residual])
        return step.joint.residual

    def _attention(self, block: str, tensors: AttentionTensors, joint: Joint) -> str:
        site, add_name = f"{block}.attn", self._namer.add_name
        projection, source = self._branches.projection(tensors.context), tensors.sources[0]
        assert projection is not None
        assert source is not None
        for name, tensor in zip("qkv", (tensors.q, tensors.k, tensors.v), strict=True):
            add_name(f"{site}.{name}", [tensor])
        for name, tensor in (("scores", tensors.scores), ("softmax", tensors.softmax)):
            if tensor:
                add_name(f"{site}.{name}", [tensor])
            else:
                self._namer.is_inside(f"{site}.{name}", tensors.inside)
        add_name(f"{site}.context", self._branches.before(projection.input))
        self._qkv_weights(site, tensors)
        add_name(f"{site}.proj", self._branches.after(projection.output))
        self._namer.linear_weights(f"{site}.proj", projection)
        return self._joined(site, f"{block}.norm1", source, projection, joint)

    def _qkv_weights(self, site: str, tensors: AttentionTensors) -> None:
        packed = len({source.output for source in tensors.sources if source}) == 1
        for name, source, norm in zip("qkv", tensors.sources, tensors.norms, strict=True):
            if source and (not packed or name == "q"):
                self._namer.linear_weights(f"{site}.{'qkv' if packed else name}", source)
            if norm:
                self._namer.norm_weights(f"{site}.{name}_norm", norm)

    def _mlp(self, block: str, mlp: MlpTensors, joint: Joint) -> str:
        site = f"{block}.mlp"
        self._namer.add_name(f"{site}.fc1", self._branches.after(mlp.first.output))
        self._namer.add_name(f"{site}.gelu", [mlp.activated])
        self._namer.add_name(f"{site}.fc2", self._branches.after(mlp.second.output))
        self._namer.linear_weights(f"{site}.fc1", mlp.first)
        self._namer.linear_weights(f"{site}.fc2", mlp.second)
        return self._joined(site, f"{block}.norm2", mlp.first, mlp.second, joint)

    def _joined(self, site: str, norm_name: str, first: Linear, last: Linear, joint: Joint) -> str:
        """Names the branch's residual and norm. first, last: its outermost linear maps."""
        norm, added, after = self._branches.norm_before(first.input), self._branches.added(last.output, joint), None
        assert added is not None
        if joint.stream in moved_from(
            self._branches.graph, first.input
        ):  # fed the stream itself: normed at its end, or later
            after = None if added.norm else self._branches.only_norm(joint.residual)
            norm = added.norm or after
        if norm is not None and not self._namer.has(norm):
            self._namer.name_norm(norm_name, norm)
        else:
            self._namer.lacks(norm_name, "no norm of this branch alone is recognised")
        self._namer.add_name(f"{site}.residual", [joint.residual])
        for scale in added.scales:
            self._namer.claim(f"{site}.layerscale", scale)
        return after.output if after else joint.residual
