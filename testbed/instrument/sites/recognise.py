"""Human names for the tensors and weights of a ViT that this project did not export, found by the graph's pattern.

The names are those of our own model (``block.3.attn.q``). Blocks are counted by residual joints, whether or not their
inside is recognised; what does not fit the pattern is left without a name, and told.
"""

from __future__ import annotations

from itertools import pairwise

from onnx import ModelProto

from testbed.instrument.sites.block_names import BlockNames
from testbed.instrument.sites.embedding import name_embedding
from testbed.instrument.sites.fused import graph_of
from testbed.instrument.sites.head import name_head
from testbed.instrument.sites.layers import Linear
from testbed.instrument.sites.naming import Namer, Names
from testbed.instrument.sites.pattern_graph import LAYOUT, SELECT, Graph
from testbed.instrument.sites.patterns.attention import AttentionTensors, attentions
from testbed.instrument.sites.patterns.branches import Branches, StreamStep
from testbed.instrument.sites.patterns.joints import ancestors, is_embedding, own_numbers, tokens
from testbed.instrument.sites.patterns.site_shapes import SiteShapes
from testbed.instrument.sites.streams import Streams

_POOL = LAYOUT | SELECT | {"ReduceMean", "GlobalAveragePool"}


def recognise(proto: ModelProto, shapes: SiteShapes) -> Names:
    """Names of what is recognised; nothing at all where no attention is. shapes: of tensors that can be sites."""
    graph = graph_of(proto)
    graph.add_tokens(tokens(graph))
    return _Recogniser(graph, shapes).run()


class _Recogniser:
    def __init__(self, graph: Graph, shapes: SiteShapes) -> None:
        self.graph, self.shapes, self.namer = graph, shapes, Namer(graph, shapes)
        self.branches = Branches(graph, shapes)
        self.block_names = BlockNames(self.branches, self.namer)

    def run(self) -> Names:
        recognised = list(attentions(self.graph, self.branches.linears, self.branches.norms, self.shapes))
        steps = list(self.branches.steps(recognised))
        if not any(step.parts for step in steps) or not any(step.joint.attends for step in steps):
            return Names()
        blocks = self._blocks(steps)
        last = ""
        for number, block in zip(own_numbers(self.graph, [[s.joint for s in b] for b in blocks]), blocks, strict=True):
            for before, step in zip((None, *block), block, strict=False):
                if before and (convolutions := self._between_steps(step, before)):
                    self.block_names.name_convolutions(f"block.{number}", convolutions)
                last = self.block_names.name_step(f"block.{number}", step)
            for kind in {"attn", "mlp"} - {step.kind for step in block} if block[0].kind != "both" else ():
                self.namer.lacks(f"block.{number}.{kind}", "no such branch is recognised in this block")
        self._left_out(recognised, steps)
        streams = Streams(self.branches, steps)
        if self._is_one_stream(steps) or len(streams.starts) < 2:
            self._outside(steps[0].joint.stream, last)
        else:
            streams.name_outside(self.namer)
        return self.namer.settled()

    def _blocks(self, steps: list[StreamStep]) -> list[list[StreamStep]]:
        """An attention and the MLP that follows it on the stream; where either is alone, that. In the order of the file."""
        blocks: list[list[StreamStep]] = []
        for step in steps:
            before = next((block for block in reversed(blocks) if self._follows(step, block[-1])), None)
            if step.kind == "mlp" and before is not None and before[-1].kind != "mlp":
                before.append(step)
            elif step.kind != "mlp" or before is not None or not blocks:
                blocks.append([step])
            else:
                self.namer.lacks(f"the MLP that ends in {step.joint.residual}", "which block it is of is not clear")
        return blocks

    def _is_one_stream(self, steps: list[StreamStep]) -> bool:
        """Whether each step is made of the step's before: there are no streams side by side."""
        places = {node.output: node.index for node in self.graph.nodes}
        return all(
            places[before.joint.residual] in ancestors(self.graph, after.joint.residual)
            for before, after in pairwise(steps)
        )

    def _follows(self, step: StreamStep, before: StreamStep) -> bool:
        norm = self.branches.only_norm(before.joint.residual)
        ends = {before.joint.residual, norm.output if norm else before.joint.residual}
        if not ends.isdisjoint(self.branches.before(step.joint.stream)):
            return True
        return step.kind == "mlp" and self._between_steps(step, before) is not None

    def _between_steps(self, step: StreamStep, before: StreamStep) -> list[Linear] | None:
        return self.branches.convolutions(step.joint.stream, before.joint.residual)

    def _outside(self, first: str, last: str) -> None:
        """Names what is before and after the blocks. first, last: the stream there."""
        if is_embedding(self.graph, first):
            name_embedding(self.graph, self.namer, self.branches.linears, self.branches.norms, first)
        self._head(last)
        self.namer.lack("patch_embed", "embed", "norm", "head")

    def _left_out(self, recognised: list[AttentionTensors], steps: list[StreamStep]) -> None:
        places = {index for step in steps for index in step.joint.places}
        if left := sum(part.index not in places for part in recognised):
            self.namer.lacks(f"{left} attention{'s' * (left > 1)}", "outside the stream of blocks")

    def _head(self, stream: str) -> None:
        """Final norm, which is all that takes the last block's stream, and classifiers."""
        norms = {index for norm in self.branches.norms.values() for index in norm.takes}
        uses = self.graph.uses(stream)
        if len(uses) == 1 and uses[0].op == "Concat":  # a class token of its own is put before the others
            stream = uses[0].output
        if all(node.op in _POOL or node.index in norms for node in self.graph.downstream(stream, _POOL)):
            for norm in self.branches.norms.values():
                if not self.namer.has(norm) and stream in self.graph.upstream(norm.input, _POOL):
                    self.namer.name_norm("norm", norm)
                    break
        name_head(self.graph, self.namer, self.branches)
