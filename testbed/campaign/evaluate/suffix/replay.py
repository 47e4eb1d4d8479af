"""Some strikes followed from where they strike to the output, by the shortest way that is on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.evaluate.contract import Evaluated, Injections, check_live, same_words
from testbed.campaign.evaluate.suffix.entries import (
    ChangedRows,
    ChangedWords,
    SuffixEntry,
    batches,
    read_words,
    write_words,
)
from testbed.campaign.evaluate.suffix.golden import SuffixGoldens
from testbed.campaign.evaluate.suffix.routes import Routes, Way
from testbed.campaign.evaluate.suffix.rows import RowRunner, golden_rows
from testbed.campaign.evaluate.suffix.segments import Segments
from testbed.campaign.folder.images import Inputs
from testbed.core.outcome import How
from testbed.engines.batches import pad_rows
from testbed.instrument.cut.stages import TOKENS, Stage, Stages
from testbed.instrument.cut.tokens import ROWS
from testbed.instrument.ports.feed import NO_SITE, PortFeed

Entries = dict[tuple[int, bool], list[SuffixEntry]]
"""(stage, whether its attention is resumed inside) -> strikes that enter there."""
_PARTS = {Way.FRONT: "front", Way.MIDDLE: "middle", Way.TAIL: "tail"}


@dataclass(frozen=True)
class ReplayContext:
    """What strikes are followed with. golden: (images, ...) outputs."""

    stages: Stages
    segments: Segments
    routes: Routes
    goldens: SuffixGoldens
    golden: NDArray[np.float32]
    inputs: Inputs


def replayed(replay: ReplayContext, stage: int, inside: bool, entries: Sequence[SuffixEntry]) -> Iterator[Evaluated]:
    """Outputs of strikes that enter a suffix, in batches; ``rows`` are the entries' own numbers."""
    first, *others = replay.segments.suffix(stage, inside)
    for batch in batches(entries, first.inputs, replay.goldens, replay.segments.batch):
        tensors = {**batch.feeds, **first(batch.feeds)}
        for segment in others:
            tensors |= segment({name: tensors[name] for name in segment.inputs})
        outputs = tensors[replay.stages.flow.output][: len(batch.injection)]
        yield Evaluated(batch.injection, outputs, batch.how, np.zeros(len(outputs), np.float32))


class Replay:
    """Some strikes whose images' golden values are at hand. slot, ways, ports, tokens: (n,)."""

    def __init__(
        self,
        replay: ReplayContext,
        injections: Injections,
        ways: NDArray[np.int8],
        ports: NDArray[np.int64],
        tokens: NDArray[np.int64],
        slot: NDArray[np.int64],
    ) -> None:
        self._replay, self._segments, self._golden = replay, replay.segments, replay.goldens
        self._stages, self._routes = replay.stages.stages, replay.routes.routes
        self._injections, self._ways, self._ports, self._tokens, self._slot = injections, ways, ports, tokens, slot
        self._entries: Entries = defaultdict(list)
        self._unchanged: list[NDArray[np.int64]] = []

    @cached_property
    def _stage_of(self) -> NDArray[np.int64]:
        return np.array([route.stage for route in self._routes])[self._ports]

    def evaluate(self) -> Iterator[Evaluated]:
        for stage in self._stages:
            of_stage = self._stage_of == stage.number
            self._cut(stage, np.flatnonzero(of_stage & (self._ways == Way.CUT)))
            self._inside(stage, np.flatnonzero(of_stage & (self._ways == Way.INSIDE)))
            for way in _PARTS:
                self._by_rows(stage, way, np.flatnonzero(of_stage & (self._ways == way)))
            yield from self._with_ports(stage, np.flatnonzero(of_stage & (self._ways == Way.TWIN)))
            for rows in chunks(np.concatenate([np.zeros(0, np.int64), *self._unchanged]), self._segments.batch):
                golden = self._replay.golden[self._injections.image[rows]]
                yield Evaluated.exact(rows, golden, How.UNCHANGED)
            self._unchanged.clear()
        for (number, inside), entries in sorted(self._entries.items(), key=lambda item: item[0]):
            yield from replayed(self._replay, number, inside, entries)

    # ---- strikes enter

    def _cut(self, stage: Stage, rows: NDArray[np.int64]) -> None:
        """The struck tensor is what the next stage starts with."""
        if not len(rows):
            return
        self._check_golden(stage.end, rows)
        token = self._tokens[rows]
        if len(alone := rows[token >= 0]):
            self._row_enters(stage.number + 1, alone, self._faulty_rows(stage.end, TOKENS, alone), How.ROWS)
        if len(spread := rows[token < 0]):
            self._enter(stage.number + 1, False, spread, words=self._words(stage.end, spread))

    def _inside(self, stage: Stage, rows: NDArray[np.int64]) -> None:
        """The struck tensor is one that the stage's attention takes."""
        for port in np.unique(self._ports[rows]):
            at_port = rows[self._ports[rows] == port]
            tensor = self._routes[port].site.tensor
            self._check_golden(tensor, at_port)
            self._enter(stage.number, True, at_port, words=self._words(tensor, at_port))

    def _by_rows(self, stage: Stage, way: Way, rows: NDArray[np.int64]) -> None:
        """The struck token is followed alone, from the part of the stage where it is struck."""
        part = _PARTS[way]
        by_route = [(port, rows[self._ports[rows] == port]) for port in np.unique(self._ports[rows])]
        armed = [members for port, members in by_route if self._routes[port].armed]
        groups = [(np.concatenate(armed), "")] if armed else []
        groups += [(members, self._routes[p].site.tensor) for p, members in by_route if not self._routes[p].armed]
        for members, tensor in groups:
            changed, ports = {}, None
            if tensor:
                self._check_golden(tensor, members)
                changed = {tensor: self._faulty_rows(tensor, getattr(stage.rowed, part).rows[tensor], members)}
            else:
                ports = self._in_rows(members)
            followed = self._follow(stage, part, members, self._tokens[members], changed, ports)
            if way == Way.FRONT:
                self._enter_inside(stage, members, self._tokens[members], followed, How.ROWS)
                continue
            if way == Way.MIDDLE:
                followed = self._follow(stage, "tail", members, self._tokens[members], followed, None)
            self._row_ends(stage, members, followed[stage.end])

    def _with_ports(self, stage: Stage, rows: NDArray[np.int64]) -> Iterator[Evaluated]:
        """The whole stage is run, with ports; what differs then goes on at once."""
        if not len(rows):
            return
        segment, size = self._segments.twin(stage.number), self._segments.batch
        for some in chunks(rows, size):
            padded = pad_rows(some, size, filler=some[0])
            feeds = {stage.start: self._images(padded)}
            if stage.number:
                feeds = {name: self._golden[name][self._slot[padded]] for name in stage.inputs}
            own = segment.own(self._injections.ports.take(some))
            outputs, live = segment.faulty(feeds, own)
            assert live is not None
            assert segment.table is not None
            check_live(own, live[: len(some)], segment.table)
            ends = outputs[stage.end][: len(some)]
            if stage.number + 1 == len(self._stages):
                yield Evaluated.exact(some, ends, How.SUFFIX)
                continue
            whole = {name: outputs[name][: len(some)] for name in stage.outputs}
            differs = np.zeros(len(some), bool)
            for name, values in whole.items():
                differs |= ~same_words(values, self._golden[name][self._slot[some]])
            if not differs.all():
                self._unchanged.append(some[~differs])
            if differs.any():
                changed = {name: values[differs] for name, values in whole.items()}
                entry = SuffixEntry(some[differs], self._slot[some[differs]], How.SUFFIX, whole=changed)
                yield from replayed(self._replay, stage.number + 1, False, [entry])

    # ---- one changed row goes on

    def _row_ends(self, stage: Stage, rows: NDArray[np.int64], values: NDArray) -> None:
        """(m, D) the struck token at the stage's end: where all its bits are golden, nothing else can differ."""
        token = self._tokens[rows]
        same = same_words(values, golden_rows(self._golden, stage.end, TOKENS, self._slot[rows], token))
        if same.any():
            self._unchanged.append(rows[same])
        if not same.all():
            self._row_enters(stage.number + 1, rows[~same], values[~same], How.ROWS)

    def _row_enters(self, number: int, rows: NDArray[np.int64], values: NDArray, how: How) -> None:
        """A stage whose start differs from the golden one in one token."""
        stage, token, plan = self._stages[number], self._tokens[rows], self._segments.plan
        if stage.rowed is not None and stage.rowed.middle is None and plan.rows:
            followed = self._follow(stage, "tail", rows, token, {stage.start: values}, None)
            self._row_ends(stage, rows, followed[stage.end])
        elif stage.rowed is not None and stage.rowed.front is not None and plan.rows and plan.inside:
            followed = self._follow(stage, "front", rows, token, {stage.start: values}, None)
            self._enter_inside(stage, rows, token, followed | {stage.start: values}, how)
        else:
            self._enter(number, False, rows, token, {stage.start: ChangedRows(TOKENS, values)}, how=how)

    def _enter_inside(
        self, stage: Stage, rows: NDArray[np.int64], token: NDArray[np.int64], followed: dict[str, NDArray], how: How
    ) -> None:
        assert stage.rowed is not None
        assert stage.rowed.front is not None
        axes = stage.rowed.front.rows
        changed = {name: ChangedRows(axes[name], values) for name, values in followed.items()}
        self._enter(stage.number, True, rows, token, changed, how=how)

    def _follow(
        self,
        stage: Stage,
        name: str,
        rows: NDArray[np.int64],
        token: NDArray[np.int64],
        changed: dict[str, NDArray],
        ports: PortFeed | None,
    ) -> dict[str, NDArray]:
        segment = self._segments.part(stage.number, name)
        run = RowRunner(segment, getattr(stage.rowed, name), self._golden, self._segments.row_batch)
        return run(self._slot[rows], token, changed, ports)

    # ---- suffixes

    def _enter(
        self,
        number: int,
        inside: bool,
        rows: NDArray[np.int64],
        token: NDArray[np.int64] | None = None,
        changed: dict[str, ChangedRows] | None = None,
        words: ChangedWords | None = None,
        how: How = How.SUFFIX,
    ) -> None:
        entry = SuffixEntry(rows, self._slot[rows], how, token, changed or {}, words)
        self._entries[number, inside].append(entry)

    # ---- struck values

    def _images(self, rows: NDArray[np.int64]) -> NDArray:
        return self._replay.inputs(self._injections.image[rows])

    def _check_golden(self, tensor: str, rows: NDArray[np.int64]) -> None:
        ports = self._injections.ports.take(rows)
        live = read_words(self._golden[tensor], self._slot[rows], ports.index, ports.site != NO_SITE)
        check_live(ports, live, self._replay.stages.table)

    def _words(self, tensor: str, rows: NDArray[np.int64]) -> ChangedWords:
        ports = self._injections.ports.take(rows)
        return ChangedWords(tensor, ports.index, ports.faulty, ports.site != NO_SITE)

    def _faulty_rows(self, tensor: str, axis: int, rows: NDArray[np.int64]) -> NDArray:
        """(m, ...) the golden rows of the strikes' tokens with their words written."""
        values = golden_rows(self._golden, tensor, axis, self._slot[rows], self._tokens[rows])
        ports = self._injections.ports.take(rows)
        write_words(values, self._row_index(rows, 1), ports.faulty, ports.site != NO_SITE)
        return values

    def _in_rows(self, rows: NDArray[np.int64]) -> PortFeed:
        return self._injections.ports.take(rows).at(self._row_index(rows, ROWS))

    def _row_index(self, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """(m, K) indices in ``count`` rows of each tensor, of which the first is the struck one."""
        index = np.zeros_like(self._injections.ports.index[rows])
        for port in np.unique(self._ports[rows]):
            at_port = self._ports[rows] == port
            index[at_port] = self._routes[port].in_row(self._injections.ports.index[rows[at_port]], count)
        return index


def chunks(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
