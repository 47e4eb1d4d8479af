"""Streams side by side, as a model of two patch sizes has them: which one a tensor is of, and what is before and after their
blocks.

A stream is what is left of a tensor after its tokens are laid out, selected, normed, or put beside others that are computed of
another stream. The names of several begin with their number, in the order of the file: ``stream.1.embed``.
"""

from __future__ import annotations

from collections.abc import Sequence

from testbed.instrument.sites.embedding import name_embedding
from testbed.instrument.sites.head import mean_of_maps
from testbed.instrument.sites.layers import Linear
from testbed.instrument.sites.naming import Namer
from testbed.instrument.sites.pattern_graph import LAYOUT, SELECT
from testbed.instrument.sites.patterns.branches import Branches, StreamStep
from testbed.instrument.sites.patterns.joints import is_embedding

_POOL = LAYOUT | SELECT | {"ReduceMean", "GlobalAveragePool"}
_KEEPS = LAYOUT | SELECT | {"Concat"}


class Streams:
    """Numbers of streams. ``starts``: the first tensor of each."""

    def __init__(self, branches: Branches, steps: Sequence[StreamStep]) -> None:
        self._branches, self._graph = branches, branches.graph
        streams = dict.fromkeys(step.joint.stream for step in steps)
        self.starts = [stream for stream in streams if is_embedding(self._graph, stream)]
        self._numbers = {tensor: number for number, tensor in enumerate(self.starts)}
        for step in steps:
            if (number := self.number_of(step.joint.stream)) is not None:
                self._numbers[step.joint.residual] = number

    def number_of(self, tensor: str) -> int | None:
        """Number of the one stream that this is of; None where it is computed anew, or of several."""
        if tensor in self._numbers:
            return self._numbers[tensor]
        if tensor in self._branches.norms:
            return self.number_of(self._branches.norms[tensor].input)
        node = self._graph.producer.get(tensor)
        if node is None or node.op not in _KEEPS:
            return None
        numbers = {self.number_of(name) for name in self._graph.live_inputs(node)} - {None}
        return numbers.pop() if len(numbers) == 1 else None

    def name_outside(self, namer: Namer) -> None:
        """Names embeddings, final norms and classifiers, each by its stream."""
        for number, stream in enumerate(self.starts):
            site = f"stream.{number}."
            name_embedding(self._graph, namer, self._branches.linears, self._branches.norms, stream, site)
        ends = mean_of_maps(self._graph, self._branches)
        for linear in ends:
            self._name_end(namer, linear, len(ends) == 1)
        every = [f"stream.{number}." for number in range(len(self.starts))]
        namer.lack(*(f"{site}{name}" for site in every for name in ("patch_embed", "embed")))
        namer.lack(*(f"{site}{name}" for site in (every if len(ends) != 1 else [""]) for name in ("norm", "head")))

    def _name_end(self, namer: Namer, linear: Linear, is_alone: bool) -> None:
        """Names a classifier and the norm before it: of its stream or, where it alone is made of several, without a number."""
        pooled = list(self._graph.upstream(linear.input, _POOL))
        norm = next((self._branches.norms[name] for name in pooled if name in self._branches.norms), None)
        number = self.number_of(norm.input if norm else pooled[-1])
        if number is None and not is_alone:
            namer.lacks(f"the classifier {linear.output}", "which stream it is of is not clear")
            return
        site = "" if number is None else f"stream.{number}."
        if norm is not None and not namer.has(norm):
            namer.name_norm(f"{site}norm", norm)
        namer.add_name(f"{site}head", self._branches.after(linear.output))
        namer.linear_weights(f"{site}head", linear)
