"""A ViT's graph as stages between cuts of the residual stream, and what inside a stage is confined to one token.

In a stage with attention, tokens meet in two products. Before them (*front*: norm, q, k, v) a token's row is made from
that token alone; after them (*tail*: projection, MLP) a token's row goes into that token alone; between (*middle*:
scores, softmax) a query's row does. All of it is found in the graph; a stage where it does not hold has no such parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from onnx import TensorProto

from testbed.core.site import Site, SiteTable
from testbed.instrument.cut.flow import CannotCut, Flow, is_number
from testbed.instrument.cut.tokens import AxisRows, Need, Needs, needs, rowwise
from testbed.instrument.lean.stored import bytes_of
from testbed.instrument.sites.pattern_graph import LAYOUT

TOKENS = 1
"""The axis of the tokens in the residual stream, (B, N, D)."""


@dataclass(frozen=True)
class StagePart:
    """A part of a stage that can be run on some rows only. inputs, outputs: what is needed of, and had from, each.

    ``axes``: struck tensors inside -> the axis of theirs whose rows are confined.
    """

    inputs: Mapping[str, Need]
    outputs: Mapping[str, AxisRows]
    axes: Mapping[str, int]

    @property
    def rows(self) -> dict[str, int]:
        """Tensors of which it takes or gives rows -> axis."""
        both = (*self.inputs.items(), *self.outputs.items())
        return {name: need.axis for name, need in both if need is not None}


@dataclass(frozen=True)
class Rowed:
    """``middle_inputs``: what a stage's attention is resumed from, the stage's start among it where it is needed.

    ``front`` makes rows of these from rows of the start, ``middle`` rows of what the tail takes; they are None where
    the stage has no attention, ``front`` also where a row is not made from one token.
    """

    middle_inputs: tuple[str, ...]
    front: StagePart | None
    middle: StagePart | None
    tail: StagePart


@dataclass(frozen=True)
class Stage:
    """The graph from one cut of the stream to the next. ``sites``: those made on the way, its end's among them.

    ``beside``, ``beside_end``: what goes past the start, and the end: to the alarms of a protected engine alone, or in other
    streams.
    """

    number: int
    start: str
    end: str
    sites: tuple[Site, ...]
    rowed: Rowed | None
    beside: tuple[str, ...] = ()
    beside_end: tuple[str, ...] = ()

    @property
    def inputs(self) -> list[str]:
        """All that it is made from."""
        return [self.start, *self.beside]

    @property
    def outputs(self) -> list[str]:
        """All that it makes of what goes on from its end."""
        return [self.end, *(name for name in self.beside_end if name not in self.beside)]

    @property
    def has_middle(self) -> bool:
        """Whether its attention can be resumed from what it takes."""
        return self.rowed is not None and self.rowed.middle is not None


@dataclass(frozen=True)
class Stages:
    """``stages[0]`` starts with the image; the last one ends with the output."""

    flow: Flow
    table: SiteTable
    stages: tuple[Stage, ...]

    @classmethod
    def of(cls, flow: Flow, table: SiteTable) -> Stages:
        """Raises CannotCut where the graph cannot be cut between two blocks anywhere."""
        beside = flow.crossings
        cuts = list(_cuts(flow, table, dict.fromkeys(beside, 0)))
        if not cuts:
            beside = flow.wide_crossings | {flow.input: (), flow.output: ()}
            cuts = list(_cuts(flow, table, {tensor: len(others) for tensor, others in flow.wide_crossings.items()}))
        if not cuts:
            raise CannotCut("there is no tensor between blocks through which everything goes")
        ends = [flow.input, *cuts, flow.output]
        stages = (_stage(flow, table, n, *pair, beside) for n, pair in enumerate(pairwise(ends)))
        return cls(flow, table, tuple(stages))

    @cached_property
    def by_site(self) -> dict[str, Stage]:
        return {site.name: stage for stage in self.stages for site in stage.sites}

    @cached_property
    def dead(self) -> dict[str, AxisRows | None]:
        """Site -> the only rows of it that can reach the output; None where none of it can. Others are alive."""
        sites = [site for site in self.table if site.where == "activation"]
        whole = [site for site in sites if not site.joined]  # the others' axes are not the tensor's
        partial = {s.name: self._needed.get(s.tensor) for s in whole if self._needed.get(s.tensor) is not None}
        return partial | {site.name: None for site in sites if site.tensor not in self._needed}

    @cached_property
    def last_rows(self) -> tuple[int, ...] | None:
        """The only tokens of the last block's output that are looked at, if they are few."""
        if any(stage.beside for stage in self.stages):  # checks look at all of them
            return None
        stream = self.stages[-1].start
        if not _is_stream(self.flow, stream):
            return None
        need, tokens = self._needed[stream], self.flow.shapes[stream][TOKENS] or 0
        if need is None or need.axis != TOKENS or need.which is None or 2 * len(need.which) > tokens:
            return None
        return tuple(sorted(need.which))

    @cached_property
    def weight_bytes(self) -> list[int]:
        """Bytes of the weights of each stage."""
        return [self.weight_bytes_between(stage.inputs, stage.outputs) for stage in self.stages]

    def weight_bytes_between(self, inputs: Sequence[str], outputs: Sequence[str]) -> int:
        """Bytes of the weights that ``outputs`` are computed with from ``inputs``. Raises CannotCut."""
        nodes = [self.flow.nodes[index] for index in self.flow.between(inputs, outputs)]
        stored = {name for node in nodes for name in node.input if name in self.flow.stored}
        return sum(_size(self.flow.stored[name]) for name in stored)

    def end_after(self, tensor: str) -> str:
        """The end of the stage in which a tensor is made."""
        places = self.flow.producer
        return next(stage.end for stage in self.stages if places[stage.end] >= places[tensor])

    @cached_property
    def _needed(self) -> dict[str, Need]:
        return needs(self.flow, range(len(self.flow.nodes)), {self.flow.output: None}).tensors


def _size(tensor: TensorProto) -> int:
    return bytes_of(tensor) if tensor.data_location == TensorProto.EXTERNAL else int(tensor.ByteSize())


def _cuts(flow: Flow, table: SiteTable, beside: Mapping[str, int]) -> Iterator[str]:
    """Cuts between blocks, and after the last: the last site there through which everything goes, or else the last
    tensor.

    beside: tensors that may be cuts -> how many others go past each; those with the fewest are taken.
    """
    sites = {s.tensor: s for s in table if s.where == "activation" and s.tensor in flow.producer}
    places: dict[int, list[int]] = {}
    for tensor, site in sites.items():
        if site.block is not None:
            places.setdefault(site.block, []).append(flow.producer[tensor])
    if not places:
        return
    candidates = [t for t in beside if t in flow.producer and (_is_stream(flow, t) or _is_grid(flow, t))]
    previous, last = -1, max(max(p) for p in places.values())
    bounds = [*(min(p) for _, p in sorted(places.items())), last + 1]
    for before in bounds:
        between = [t for t in candidates if previous < flow.producer[t] < before]
        between = [t for t in between if beside[t] == min(map(beside.__getitem__, between))]
        between = [t for t in between if _is_stream(flow, t)] or between
        named = [t for t in between if t in sites]
        if between:
            chosen = (named or between)[-1]
            previous = flow.producer[chosen]
            if chosen != flow.output:
                yield chosen


def _is_stream(flow: Flow, tensor: str) -> bool:
    shape = flow.shapes.get(tensor, ())
    return len(shape) == 3 and shape[0] is None and all(map(is_number, shape[1:]))


def _is_grid(flow: Flow, tensor: str) -> bool:
    """Tokens that lie in rows and columns, as in stages with windows."""
    shape = flow.shapes.get(tensor, ())
    return len(shape) == 4 and shape[0] is None and all(map(is_number, shape[1:]))


def _stage(
    flow: Flow, table: SiteTable, number: int, start: str, end: str, crossings: Mapping[str, tuple[str, ...]]
) -> Stage:
    """The stage between two cuts. crossings: what goes past each."""
    beside, beside_end = crossings[start], crossings[end]
    stage = Stage(number, start, end, (), None, beside, beside_end)
    places = flow.between(stage.inputs, stage.outputs)
    made = {name for index in places for name in flow.nodes[index].output}
    sites = tuple(s for s in table if s.where == "activation" and s.tensor in made)
    rowed = None
    if beside or beside_end:  # more of a token is seen than what goes on from it
        return replace(stage, sites=sites)
    if _is_stream(flow, start) and _is_stream(flow, end):
        try:
            rowed = _rowed(flow, places, start, end, {site.tensor for site in sites if not site.joined})
        except CannotCut:
            rowed = None
    return Stage(number, start, end, sites, rowed)


def _rowed(flow: Flow, places: Sequence[int], start: str, end: str, faulty: set[str]) -> Rowed | None:
    needed = needs(flow, places, {end: AxisRows(TOKENS)})
    by_rows = {p for p in places if all(_by_rows(needed, name) for name in flow.nodes[p].output)}
    apart = {p for p in by_rows if not _reaches(flow, places, p) & (set(places) - by_rows)}
    meeting = {p for p in apart if any(needed.edges[p, n] is None for n in flow.live_inputs(flow.nodes[p]))}
    if not meeting:
        if apart != set(places):
            return None
        return Rowed((start,), None, None, _stage_part(flow, places, {end: AxisRows(TOKENS)}, faulty))
    back = {p for p in apart if p in meeting or any(p in _reaches(flow, places, m) for m in meeting)}
    tail = {p for p in back if p not in meeting and not _reaches(flow, places, p) & meeting}
    middle = _with_layout(flow, back - tail, faulty)
    tail_part = _stage_part(flow, sorted(tail), {end: AxisRows(TOKENS)}, faulty)
    out: dict[str, AxisRows] = {}
    made = {n for p in middle for n in flow.nodes[p].output}
    for name, need in tail_part.inputs.items():
        if need is None:
            return None
        if name in made:
            out[name] = need
    middle_part = _stage_part(flow, sorted(middle), out, faulty)
    inputs = list(dict.fromkeys((*middle_part.inputs, *(n for n in tail_part.inputs if n not in made))))
    for name in (*inputs, *out):
        flow.per_image(name)
    front = _front(flow, start, [n for n in inputs if n != start], faulty)
    return Rowed(tuple(inputs), front, middle_part, tail_part)


def _front(flow: Flow, start: str, outputs: Sequence[str], faulty: set[str]) -> StagePart | None:
    places = flow.between([start], outputs)
    axes = rowwise(flow, places, start, TOKENS)
    if any(name not in axes for name in outputs):
        return None
    inside = {name: axis for name, axis in axes.items() if name in faulty and name not in outputs}
    return StagePart({start: AxisRows(TOKENS)}, {name: AxisRows(axes[name]) for name in outputs}, inside)


def _stage_part(flow: Flow, places: Sequence[int], outputs: Mapping[str, AxisRows], faulty: set[str]) -> StagePart:
    needed = needs(flow, places, outputs)
    made = {name for index in places for name in flow.nodes[index].output}
    inputs = {name: need for name, need in needed.tensors.items() if name not in made}
    inside = {n: need.axis for n in needed.tensors if n in faulty & made and (need := needed.rows(n)) is not None}
    return StagePart(inputs, outputs, {n: axis for n, axis in inside.items() if n not in outputs})


def _by_rows(needed: Needs, tensor: str) -> bool:
    return tensor not in needed.tensors or needed.rows(tensor) is not None


def _with_layout(flow: Flow, places: set[int], faulty: set[str]) -> set[int]:
    """And the nodes that only lay a struck tensor out anew for them: what is taken is then the struck tensor itself."""
    made = {name for index in places for name in flow.nodes[index].output}
    taken = {n for index in places for n in flow.live_inputs(flow.nodes[index]) if n not in made}
    more: set[int] = set()
    for name in taken:
        path: list[int] = []
        while name not in faulty and name in flow.producer:
            node = flow.nodes[flow.producer[name]]
            if node.op_type not in LAYOUT or len(flow.live_inputs(node)) != 1:
                break
            path.append(flow.producer[name])
            (name,) = flow.live_inputs(node)
        more |= set(path) if name in faulty else set()
    return places | more


def _reaches(flow: Flow, places: Sequence[int], index: int) -> set[int]:
    """Which of the nodes take, directly or not, what the one at ``index`` makes."""
    inside, reached, waiting = set(places), set(), [index]
    while waiting:
        for name in flow.nodes[waiting.pop()].output:
            for after in flow.consumers.get(name, ()):
                if after in inside and after not in reached:
                    reached.add(after)
                    waiting.append(after)
    return reached
