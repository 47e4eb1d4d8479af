"""The compiled segments of a model that suffix evaluation is made of: each is built when it is first needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from testbed.campaign.evaluate.contract import OpenPart
from testbed.campaign.evaluate.suffix.shortcuts import Shortcuts
from testbed.core.arrays import Words32
from testbed.core.site import Site, SiteTable
from testbed.engines.runner import Runner
from testbed.instrument.cut.flow import CannotCut
from testbed.instrument.cut.segments import FLAT, FLAT_SHAPE, cut_segment, opaque
from testbed.instrument.cut.stages import StagePart, Stages
from testbed.instrument.cut.tokens import ROWS, Need, Restricted, restricted
from testbed.instrument.ports.feed import NO_SITE, PortFeed, live_words
from testbed.instrument.ports.insertion import instrument

Arrays = Mapping[str, NDArray]
COPIES = 2
"""Of each weight: engines keep the file's beside the one that they packed."""
ROW_BATCH = 16
"""Strikes that are followed by their token alone, at a time."""


@dataclass
class Clock:
    """Seconds spent inside engines."""

    seconds: float = 0.0


@dataclass
class Segment:
    """An engine for a part of the model. ``constants``: what it is always fed; ``weights``: those it holds."""

    runner: Runner
    inputs: tuple[str, ...]
    clock: Clock
    constants: dict[str, NDArray] = field(default_factory=dict)
    weights: frozenset[str] = frozenset()

    def __call__(self, feeds: Arrays) -> dict[str, NDArray]:
        start = time.perf_counter()
        try:
            return self.runner.run({**feeds, **self.constants})
        finally:
            self.clock.seconds += time.perf_counter() - start


@dataclass
class PortedSegment(Segment):
    """A segment with fault ports at ``table``'s sites. ``port_of``: port number of the whole twin -> the segment's
    own."""

    table: SiteTable | None = None
    port_of: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def faulty(self, feeds: Arrays, ports: PortFeed | None) -> tuple[dict[str, NDArray], Words32 | None]:
        """Outputs, and the live words (B, K). ports: (B, K), numbered as the segment's own; None: none is armed."""
        if self.table is None:
            return self(feeds), None
        size = len(next(iter(feeds.values())))
        ports = PortFeed.idle(size) if ports is None else ports.padded(size)
        outputs = self({**feeds, **ports.as_inputs(self.table)})
        return outputs, live_words(outputs, self.table, ports.site)

    def own(self, ports: PortFeed) -> PortFeed:
        """The same strikes, numbered as this segment's."""
        return replace(ports, site=np.where(ports.site == NO_SITE, NO_SITE, self.port_of[ports.site]))


class Segments:
    """``batch``: of all but the segments of rows. ``weight_bytes``: about how much memory all weights of suffixes may take.

    A suffix runs in one engine from its block to the output, as memory is then hot; every block's weights are held once
    per suffix. Where that takes too much, suffixes end at fixed blocks, and go on in the next one's engine.
    """

    def __init__(self, stages: Stages, plan: Shortcuts, open_: OpenPart, batch: int, weight_bytes: int) -> None:
        self.stages, self.plan, self.batch = stages, plan, batch
        self.clock = Clock()
        self.row_batch = max(batch, ROW_BATCH)
        self._open, self._weight_bytes = open_, weight_bytes
        self._built: dict[tuple[object, ...], PortedSegment] = {}

    # ---- what there is

    def tapped(self, tensors: Sequence[str]) -> Segment:
        """The whole model with these tensors as outputs, beside its own. Not kept."""
        flow = self.stages.flow
        return self._kept_apart(cut_segment(flow, [flow.input], [*tensors, flow.output]), [flow.input], {})

    def suffix(self, stage: int, inside: bool) -> list[Segment]:
        """The segments from the stage's start, or from its attention's inputs, to the output: to be run one after the
        other."""
        stop = self.stop_of(stage)
        segments = [self._span(stage, inside, stop)]
        return segments if stop == len(self.stages.stages) else [*segments, *self.suffix(stop, False)]

    def stop_of(self, stage: int) -> int:
        """The stage at which an engine that starts with ``stage`` ends."""
        return next(end for end in self._ends if end > stage)

    def twin(self, stage: int) -> PortedSegment:
        """A whole stage with a port at each of its sites but its end's."""

        def build() -> PortedSegment:
            flow, own = self.stages.flow, self.stages.stages[stage]
            inside = [site for site in own.sites if site.tensor != own.end]
            return self._ported(cut_segment(flow, own.inputs, own.outputs), own.inputs, inside, {}, self.batch)

        return self._kept(("twin", stage), build)

    def part(self, stage: int, name: str) -> PortedSegment:
        """The stage's "front", "middle" or "tail" for `ROWS` rows per image, with a port at each confined site."""

        def build() -> PortedSegment:
            own = self.stages.stages[stage]
            part: StagePart = getattr(own.rowed, name)
            few = self.part_model(part)
            sites = [site for site in own.sites if site.tensor in part.axes and site.tensor in few.shapes]
            return self._ported(few.proto, list(part.inputs), sites, few.shapes, self.row_batch)

        return self._kept(("part", stage, name), build)

    def part_model(self, part: StagePart) -> Restricted:
        flow = self.stages.flow
        wanted: dict[str, Need] = dict(part.outputs)
        return restricted(flow, flow.between([*part.inputs], [*part.outputs]), [*part.inputs], wanted, ROWS)

    def close(self) -> None:
        for segment in self._built.values():
            segment.runner.close()
        self._built.clear()

    # ---- how it is built

    def _span(self, stage: int, inside: bool, stop: int) -> Segment:
        def build() -> PortedSegment:
            few, inputs = self.span_model(stage, inside, stop)
            return self._kept_apart(few.proto, inputs, few.shapes)

        return self._kept(("span", stage, inside, stop), build)

    def span_model(self, stage: int, inside: bool, stop: int) -> tuple[Restricted, list[str]]:
        """Stages ``stage`` to ``stop`` (excluded) as a model, and what it takes."""
        flow, stages = self.stages.flow, self.stages.stages
        rowed = stages[stage].rowed
        inputs = list(rowed.middle_inputs) if inside and rowed else stages[stage].inputs
        end = stages[stop - 1].end
        beside = [name for name in stages[stop - 1].beside_end if name not in inputs]
        rows = self.last_rows if end == flow.output else None
        if rows is None or stage == len(stages) - 1:
            return Restricted(cut_segment(flow, inputs, [end, *beside]), {}), inputs
        with suppress(CannotCut):  # what cannot be restricted is run in full
            return restricted(flow, flow.between(inputs, [end]), inputs, {end: None}, rows), inputs
        return Restricted(cut_segment(flow, inputs, [end]), {}), inputs

    @cached_property
    def last_rows(self) -> tuple[int, ...] | None:
        """The tokens that the last block is restricted to."""
        rows = self.stages.last_rows if self.plan.last else None
        return None if rows is None else (rows * ROWS)[: max(ROWS, len(rows))]

    @cached_property
    def _ends(self) -> list[int]:
        return group_ends(self.stages.weight_bytes, self._weight_bytes)

    def _kept(self, key: tuple[object, ...], build: Callable[[], PortedSegment]) -> PortedSegment:
        if key not in self._built:
            self._built[key] = build()
        return self._built[key]

    def _kept_apart(
        self, proto: ModelProto, inputs: Sequence[str], shapes: Mapping[str, tuple[int, ...]]
    ) -> PortedSegment:
        """No fusion over a struck tensor, as in the twin."""
        self._untell(proto)
        sites = sites_inside(proto, self.stages.table)
        if self.plan.style == "ported":
            segment = self._ported(proto, inputs, sites, shapes, self.batch)
            if segment.table is not None:
                segment.constants |= PortFeed.idle(self.batch).as_inputs(segment.table)
            return segment
        return opaque_segment(self._open, proto, inputs, sites, shapes, self.batch, self.clock)

    def _ported(
        self,
        proto: ModelProto,
        inputs: Sequence[str],
        sites: Sequence[Site],
        shapes: Mapping[str, tuple[int, ...]],
        batch: int,
    ) -> PortedSegment:
        self._untell(proto)
        if not sites:
            return opaque_segment(self._open, proto, inputs, sites, shapes, batch, self.clock)
        whole = self.stages.table
        own = tuple(replace(site, shape=shapes.get(site.tensor, site.shape)) for site in sites)
        table = SiteTable(whole.target, whole.deployment_id, whole.mechanism, own)
        port_of = np.full(len(whole.ports), NO_SITE, np.int64)
        for name, number in table.ports.items():
            port_of[whole.ports[name]] = number
        model = instrument(proto.SerializeToString(), table).SerializeToString()
        runner = self._open(model, batch=batch)
        return PortedSegment(runner, tuple(inputs), self.clock, table=table, port_of=port_of)

    def _untell(self, proto: ModelProto) -> None:
        """Takes back, in place, what the file itself does not say of the tensors on the way."""
        if self.plan.style == "untold":
            stated = {value.name for value in self.stages.flow.proto.graph.value_info}
            own = [value for value in proto.graph.value_info if value.name in stated]
            del proto.graph.value_info[:]
            proto.graph.value_info.extend(own)


def opaque_segment(
    open_: OpenPart,
    proto: ModelProto,
    inputs: Sequence[str],
    sites: Iterable[Site],
    shapes: Mapping[str, tuple[int, ...]],
    batch: int,
    clock: Clock,
    mutable: bool = False,
) -> PortedSegment:
    """An engine that fuses nothing over the sites' tensors. shapes: of those that have only some rows."""
    model = opaque(proto, {site.tensor: shapes.get(site.tensor, site.trailing) for site in sites})
    constants = {FLAT: FLAT_SHAPE} if any(v.name == FLAT for v in model.graph.input) else {}
    weights = frozenset(tensor.name for tensor in proto.graph.initializer)
    runner = open_(model.SerializeToString(), batch=batch, mutable_weights=mutable)
    return PortedSegment(runner, tuple(inputs), clock, constants, weights)


def sites_inside(proto: ModelProto, table: SiteTable) -> list[Site]:
    """The sites that a model makes on its way, its outputs not among them."""
    made = {name for node in proto.graph.node for name in node.output} - {v.name for v in proto.graph.output}
    return [site for site in table if site.where == "activation" and site.tensor in made]


def group_ends(sizes: Sequence[int], budget: int) -> list[int]:
    """Stages, of these sizes, at which suffixes end: as few as let the copies that all suffixes hold fit the budget.

    The head stays with the last block, which is run for the tokens that it looks at.
    """
    last = len(sizes)
    ends = [last]
    for parts in range(1, last):
        ends = sorted({last - (last * part) // parts for part in range(parts)} - {last - 1})
        starts = [0, *ends]
        held = (sizes[stage] * (stage - start + 1) for start, end in pairwise(starts) for stage in range(start, end))
        if COPIES * sum(held) <= budget:
            break
    return ends
