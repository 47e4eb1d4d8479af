"""Duplicates: parts of the network computed twice and compared, or three times and put to the vote.

A copy has weights of its own. Engines merge nodes of the same inputs (common subexpressions), but not such of different
initializers; a part without a weight of its own would be merged, and is refused.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, TensorProto, numpy_helper
from pydantic import JsonValue

from testbed.core.errors import TestbedError, UsageError
from testbed.core.protected import PREFIX
from testbed.core.words.nearest import meant
from testbed.instrument.cut.flow import CannotCut
from testbed.protect.checks.alarms import add_alarms
from testbed.protect.checks.bounds import FACTOR, set_bounds
from testbed.protect.checks.relation import Relation, Term
from testbed.protect.checks.sums import Vectors
from testbed.protect.contract import Applied, CalibrationSet, ProtectedPlace
from testbed.protect.graph import GraphEditor

_STEP = f"{PREFIX}duplicate"
_PARTS = {"attn": ("norm1", "attn.proj", "attn.residual"), "mlp": ("norm2", "mlp.fc2", "mlp.residual")}
"""Of each branch, the sites that it starts behind and ends with, and where it joins the stream."""
USUAL = ("block.*.attn", "block.*.mlp")


@dataclass(frozen=True)
class Part:
    """A stretch of the network: from ``start`` (excluded) to ``end``, tensors; sites: those that are computed in it."""

    name: str
    start: str
    end: str
    nodes: tuple[int, ...]
    sites: tuple[str, ...]


@dataclass(frozen=True)
class DuplicatePass:
    """``where``: patterns of parts: block.N, block.N.attn, block.N.mlp (of a block and parts of it that one pattern
    matches, the block); ``vote``: three copies, the majority goes on, instead of two and an alarm."""

    where: tuple[str, ...] = USUAL
    vote: bool = False

    name = "duplicate"

    @property
    def detects(self) -> bool:
        return not self.vote

    @property
    def corrects(self) -> bool:
        return self.vote

    def requires(self, graph: GraphEditor) -> None:
        """Raises UsageError for a pattern that names no part, and for parts that lie in one another."""
        parts = self._parts(graph)
        taken: dict[int, str] = {}
        for part in parts:
            for node in part.nodes:
                if node in taken:
                    raise UsageError(f"{part.name} and {taken[node]} share nodes; name only one of them")
                taken[node] = part.name

    def planned(self, graph: GraphEditor) -> tuple[list[str], dict[str, str]]:
        """The parts that are copied."""
        return [part.name for part in self._parts(graph)], {}

    @property
    def settings(self) -> dict[str, JsonValue]:
        """What was asked for."""
        return {"where": list(self.where), "vote": self.vote}

    def call(self, proto: ModelProto, calibration: CalibrationSet) -> tuple[ModelProto, Applied]:
        """Copy every chosen part."""
        graph = GraphEditor(proto)
        parts = self._parts(graph)
        if self.vote:
            for part in parts:
                _add_vote(graph, part)
            places = [ProtectedPlace(part.name, "vote", part.sites) for part in parts]
            return graph.finished(), Applied(self.name, self.settings, tuple(places))
        relations = [_same(graph, part, _add_copy(graph, part, 1)) for part in parts]
        groups = add_alarms(graph, self.name, relations)
        bounded, measured = set_bounds(graph.finished(), groups, calibration, FACTOR)
        covered = {part.name: part.sites for part in parts}
        places = [ProtectedPlace(p.name, p.kind, covered[p.name], p.low, p.high, p.noise) for p in measured]
        return bounded, Applied(self.name, self.settings, tuple(places))

    def ensures(self, proto: ModelProto, applied: Applied) -> None:
        """Every copy is there, with weights of its own."""
        made = {name for node in proto.graph.node for name in node.output}
        for spot in applied.places:
            for number in (1, 2) if self.vote else (1,):
                if not any(name.startswith(f"{_STEP}.{number}.{spot.name}.") for name in made):
                    raise TestbedError(f"duplicate: copy {number} of {spot.name} is not in the file")

    def _parts(self, graph: GraphEditor) -> list[Part]:
        known = parts_of(graph)
        chosen: list[str] = []
        for pattern in self.where:
            hits = [name for name in known if fnmatch.fnmatchcase(name, pattern)]
            if not hits and (self.where != USUAL or not known):
                raise UsageError(f"no part matches {pattern!r}{_listed(list(known), pattern)}")
            whole = [name for name in hits if not any(name.startswith(f"{other}.") for other in hits)]
            chosen += [name for name in whole if name not in chosen]
        return [known[name] for name in chosen]


def _listed(parts: list[str], pattern: str) -> str:
    if not parts:
        return ": no block of this file can be copied"
    listed = f"there are: {', '.join(parts[:6])}{', ...' if len(parts) > 6 else ''}"
    return f"{meant(pattern, parts) or ';'} {listed}"


def parts_of(graph: GraphEditor) -> dict[str, Part]:
    """The parts of a ViT that can be copied: of every block its attention, its MLP, and all of it."""
    parts: dict[str, Part] = {}
    blocks = sorted({site.block for site in graph.sites.values() if site.block is not None})
    for block in blocks:
        for name, (first, last, joint) in _PARTS.items():
            start = _start(graph, f"block.{block}.{first}")
            if start:
                end = _end(graph, start, f"block.{block}.{last}", f"block.{block}.{joint}")
                if end:
                    _keep(graph, parts, f"block.{block}.{name}", start, end)
        start, whole = _start(graph, f"block.{block}.norm1"), f"block.{block}.mlp.residual"
        if start and whole in graph.sites:
            _keep(graph, parts, f"block.{block}", start, graph.sites[whole].tensor)
    return parts


def _start(graph: GraphEditor, norm: str) -> str:
    """What a norm takes; "" where the file has none of that name."""
    if norm not in graph.sites:
        return ""
    tensor = graph.sites[norm].tensor
    if tensor in graph.written_norms:
        return graph.written_norms[tensor].input
    node = _maker(graph, tensor)
    return "" if node is None else graph.flow.live_inputs(node)[0]


def _maker(graph: GraphEditor, tensor: str) -> NodeProto | None:
    """The operator that computes a site; of integers that which computes what they are rounded from."""
    node = graph.producer(tensor)
    return graph.producer(node.input[0]) if node is not None and node.op_type == "QuantizeLinear" else node


def _end(graph: GraphEditor, start: str, last: str, joint: str) -> str:
    """A branch's last map or, of one that is not recognised inside, what is added to the stream."""
    if last in graph.sites:
        return graph.sites[last].tensor
    node = graph.producer(graph.sites[joint].tensor) if joint in graph.sites else None
    added = [] if node is None else [name for name in graph.flow.live_inputs(node) if name != start]
    return added[0] if node is not None and node.op_type == "Add" and len(added) == 1 else ""


def _keep(graph: GraphEditor, parts: dict[str, Part], name: str, start: str, end: str) -> None:
    """Leaves out a part that takes more of the image than its start."""
    try:
        nodes = graph.flow.between([start], [end])
    except CannotCut:
        return
    made = {output for index in nodes for output in graph.flow.nodes[index].output}
    sites = tuple(site for site, of in graph.sites.items() if of.tensor in made)
    parts[name] = Part(name, start, end, tuple(nodes), sites)


def _add_copy(graph: GraphEditor, part: Part, number: int) -> str:
    """The part once more, its weights copied; gives back the copy's end."""
    prefix = f"{_STEP}.{number}.{part.name}"
    made = {name for index in part.nodes for name in graph.flow.nodes[index].output if name}

    def renamed(name: str) -> str:
        if name in made:
            return f"{prefix}.{name}"
        if name in graph.flow.stored and is_copied_weight(graph.flow.stored[name]):
            return graph.constant(f"{prefix}.{name}", numpy_helper.to_array(graph.flow.stored[name]))
        return name

    stored = {name for name in graph.flow.stored if is_copied_weight(graph.flow.stored[name])}
    weights = 0
    for index in part.nodes:
        node = graph.flow.nodes[index]
        inputs = [renamed(name) for name in node.input]
        weights += len(stored.intersection(node.input))
        graph.add_like(node, inputs, [renamed(name) for name in node.output])
    if not weights:
        raise UsageError(f"{part.name} has no weight of its own: engines would merge its copy with it")
    return f"{prefix}.{part.end}"


def is_copied_weight(tensor: TensorProto) -> bool:
    """Whether a copy takes a weight of its own for a stored tensor: whether it holds numbers, not a shape."""
    return tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8)


def _same(graph: GraphEditor, part: Part, copy: str) -> Relation:
    """That the part and its copy differ by nothing but rounding."""
    prefix = f"{_STEP}.1.{part.name}"
    difference = graph.add("Sub", [part.end, copy], f"{prefix}.difference")
    size = graph.add("Abs", [difference], f"{prefix}.size")
    if graph.element(part.end) != TensorProto.FLOAT:
        size = graph.add("Cast", [size], f"{prefix}.size.fp32", to=TensorProto.FLOAT)
    axes = tuple(range(1, len(graph.flow.per_image(part.end)) + 1))
    total = graph.reduce("ReduceSum", size, axes, f"{prefix}.total", keepdims=0)

    def terms(vectors: Vectors) -> list[Term]:
        return [Term(vectors.product_of(total, (1,)), 1.0)]

    return Relation(part.name, "copy", (part.end,), lambda _: None, terms)


def _add_vote(graph: GraphEditor, part: Part) -> None:
    """The part where its first copy says the same, else the second copy: the majority wherever one of three is wrong."""
    first, second = (_add_copy(graph, part, number) for number in (1, 2))
    prefix = f"{_STEP}.{part.name}"
    agree = graph.add("Equal", [part.end, first], f"{prefix}.agree")
    graph.redirect(part.end, graph.add("Where", [agree, part.end, second], f"{prefix}.voted"))


def copies(proto: ModelProto, names: Sequence[str]) -> dict[str, int]:
    """Products that an (optimised) file still holds for each part's copies."""
    return {
        name: sum(
            any(  # in a tensor's name behind a cast, too; integer products keep their node's name alone
                f"{_STEP}.{number}.{name}." in label for number in (1, 2) for label in (node.name, *node.output)
            )
            for node in proto.graph.node
            if "MatMul" in node.op_type or "Gemm" in node.op_type or "Attention" in node.op_type
        )
        for name in names
    }


def standing_in(proto: ModelProto) -> str:
    """A copy's tensor that the network's own output is made of, where an (optimised) file computes a part by its copy alone;
    "" where none is."""
    producer = {name: node for node in proto.graph.node for name in node.output if name}
    waiting, seen = [proto.graph.output[0].name], set[str]()
    while waiting:
        name = waiting.pop()
        if name in producer and name not in seen:
            seen.add(name)
            waiting += producer[name].input
    return next((name for name in sorted(seen) if f"{_STEP}.1." in name), "")
