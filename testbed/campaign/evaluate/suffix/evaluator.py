"""Suffix replay: the output of a fault by running only what it can change, on the very bits of the whole twin.

What precedes the fault is golden and kept. In the fault's own block, and in the last one, only the tokens that it can
reach are computed, where the graph proves that these are few; what follows runs in a compiled suffix of the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.evaluate.contract import Evaluated, Evaluator, Injections, OpenPart, check_live, same_words
from testbed.campaign.evaluate.suffix.costs import Costs
from testbed.campaign.evaluate.suffix.dead import check_dead
from testbed.campaign.evaluate.suffix.entries import SuffixEntry, read_words, write_words
from testbed.campaign.evaluate.suffix.golden import SuffixGoldens
from testbed.campaign.evaluate.suffix.replay import Replay, ReplayContext, chunks, replayed
from testbed.campaign.evaluate.suffix.routes import Routes, Way
from testbed.campaign.evaluate.suffix.segments import Segments
from testbed.campaign.evaluate.suffix.shortcuts import Shortcuts
from testbed.campaign.folder.images import Inputs
from testbed.core.outcome import How
from testbed.instrument.cut.stages import Stages
from testbed.instrument.ports.feed import NO_SITE

GIB = 2**30
_INJECTIONS_AT_ONCE = 8192


class SuffixEvaluator:
    """An `Evaluator`; strikes that it has no shorter way for go to ``whole``."""

    def __init__(
        self,
        stages: Stages,
        plan: Shortcuts,
        open_: OpenPart,
        whole: Evaluator,
        inputs: Inputs,
        images: int,
        batch: int,
        *,
        golden_bytes: int = GIB,
        weight_bytes: int = GIB,
    ) -> None:
        """Sets the engines' sizes and budgets. inputs: of rows of the named images, ``images`` in all; batch: the
        campaign's frozen one. golden_bytes, weight_bytes: about how much memory golden values, and weights of suffixes,
        may take."""
        self.stages, self.plan, self.whole = stages, plan, whole
        self.segments = Segments(stages, plan, open_, batch, weight_bytes)
        self.routes = Routes(stages, plan)
        self.costs = Costs(stages, self.segments, self.routes)
        self._inputs, self._batch = inputs, batch
        names = self._kept()
        size = sum(int(np.prod(stages.flow.per_image(n))) for n in names) * 4
        self._goldens = SuffixGoldens(
            lambda: self.segments.tapped(names), names, stages.flow.output, size, inputs, images, batch, golden_bytes
        )

    @property
    def golden(self) -> NDArray[np.float32]:
        return self.whole.golden

    @cached_property
    def _replay(self) -> ReplayContext:
        return ReplayContext(self.stages, self.segments, self.routes, self._goldens, self.golden, self._inputs)

    @property
    def engine_seconds(self) -> float:
        """Time spent inside the segments' engines, golden values included; the whole twin's is its own."""
        return self.segments.clock.seconds

    def golden_by_pieces(self) -> NDArray[np.bool_]:
        """(images,) whether the whole twin's golden outputs are given, bit for bit, by the graph that golden values are
        taken from, and by the longest suffix; for the first batch of images, by every suffix."""
        same = np.ones(len(self.golden), bool)
        entries = [(s.number, i) for s in self.stages.stages[1:] for i in {False, s.has_middle and self.plan.inside}]
        for group in self._goldens.groups(np.arange(len(same))):
            same[group] &= same_words(self._goldens.outputs(group), self.golden[group])
            for stage, inside in entries:
                images = group if stage == 1 else group[group < self._batch]
                entry = SuffixEntry(images, self._goldens.slots(images), How.SUFFIX)
                for evaluated in replayed(self._replay, stage, inside, [entry]):
                    same[evaluated.rows] &= same_words(evaluated.outputs, self.golden[evaluated.rows])
        return same

    def relative_cost(self, injections: Injections) -> NDArray[np.float64]:
        """(n,) share of a whole inference's multiply-accumulates that each strike leaves to be run, padding not counted,
        and as if no strike were found to be unchanged on its way."""
        ways, ports, _ = self.routes.ways(injections)
        return self.costs.of(ways, ports)

    def close(self) -> None:
        self.segments.close()
        self._goldens.close()

    def evaluate(self, injections: Injections) -> Iterator[Evaluated]:
        ways, ports, tokens = self.routes.ways(injections)
        for way, how in ((Way.DEAD, How.DEAD), (Way.OUTPUT, How.SUFFIX)):
            for rows in chunks(np.flatnonzero(ways == way), self._batch):
                yield Evaluated.exact(rows, self._of_golden(injections, rows, way == Way.OUTPUT), how)
        check_dead(injections, np.flatnonzero(ways == Way.DEAD), self.whole, self.stages.table)
        if len(rows := np.flatnonzero(ways == Way.WHOLE)):
            for evaluated in self.whole.evaluate(injections.take(rows)):
                yield Evaluated(rows[evaluated.rows], evaluated.outputs, evaluated.how, evaluated.bound)
        left = np.flatnonzero(~np.isin(ways, (Way.DEAD, Way.OUTPUT, Way.WHOLE)))
        for group in self._goldens.groups(injections.image[left]):
            for rows in chunks(left[group], _INJECTIONS_AT_ONCE):
                slot = self._goldens.slots(injections.image[rows])
                run = Replay(self._replay, injections.take(rows), ways[rows], ports[rows], tokens[rows], slot)
                for evaluated in run.evaluate():
                    yield Evaluated(rows[evaluated.rows], evaluated.outputs, evaluated.how, evaluated.bound)

    def _of_golden(self, injections: Injections, rows: NDArray[np.int64], injected: bool) -> NDArray[np.float32]:
        outputs = self.golden[injections.image[rows]]
        if injected:
            part = injections.ports.take(rows)
            used = part.site != NO_SITE
            live = read_words(outputs, np.arange(len(rows)), part.index, used)
            check_live(part, live, self.stages.table)
            write_words(outputs, part.index, part.faulty, used)
        return outputs

    def _kept(self) -> list[str]:
        """Tensors whose golden values suffixes and parts start from."""
        names: dict[str, None] = {}
        for stage in self.stages.stages[1:]:
            names |= dict.fromkeys(stage.inputs)
            if stage.rowed is not None and (self.plan.inside or self.plan.rows):
                names |= dict.fromkeys(stage.rowed.middle_inputs)
                names |= dict.fromkeys(stage.rowed.tail.inputs)
        return list(names)
