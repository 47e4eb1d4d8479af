"""Suffix replay: the output of a fault by running only what it can change, on the very bits of the whole twin.

What precedes the fault is golden and kept. In the fault's own block, and in the last one, only the tokens that it can
reach are computed, where the graph proves that these are few; what follows runs in a compiled suffix of the model.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.evaluation import Evaluated, Evaluator, How, Strikes
from testbed.campaign.images import Inputs
from testbed.campaign.suffix_entries import read_words, write_words
from testbed.campaign.suffix_golden import Goldens
from testbed.campaign.suffix_pieces import Open, Pieces
from testbed.campaign.suffix_plan import SuffixPlan
from testbed.campaign.suffix_routes import Routes, Way
from testbed.campaign.suffix_run import Replay, Run, chunks
from testbed.campaign.whole import check_live
from testbed.instrument.feed import NO_SITE
from testbed.instrument.stages import Stages

GIB = 2**30
_STRIKES_AT_ONCE = 8192


class SuffixEvaluator:
    """An `Evaluator`; strikes that it has no shorter way for go to ``whole``."""

    def __init__(
        self,
        stages: Stages,
        plan: SuffixPlan,
        open_: Open,
        whole: Evaluator,
        inputs: Inputs,
        images: int,
        batch: int,
        *,
        golden_bytes: int = GIB,
        weight_bytes: int = GIB,
    ) -> None:
        """inputs: of rows of the named images, ``images`` in all; batch: the campaign's frozen one. golden_bytes,
        weight_bytes: about how much memory golden values, and weights of suffixes, may take."""
        self.stages, self.plan, self.whole = stages, plan, whole
        self.pieces = Pieces(stages, plan, open_, batch, weight_bytes)
        self.routes = Routes(stages, plan)
        self._inputs, self._batch = inputs, batch
        names = self._kept()
        size = sum(int(np.prod(stages.flow.per_image(n))) for n in names) * 4
        self._goldens = Goldens(lambda: self.pieces.tapped(names), names, size, inputs, images, batch, golden_bytes)

    @property
    def golden(self) -> NDArray[np.float32]:
        return self.whole.golden

    @property
    def engine_seconds(self) -> float:
        """Time spent inside the pieces' engines, golden values included; the whole twin's is its own."""
        return self.pieces.clock.seconds

    def close(self) -> None:
        self.pieces.close()
        self._goldens.close()

    def evaluate(self, strikes: Strikes) -> Iterator[Evaluated]:
        ways, ports, tokens = self.routes.ways(strikes)
        for way, how in ((Way.DEAD, How.DEAD), (Way.OUTPUT, How.SUFFIX)):
            for rows in chunks(np.flatnonzero(ways == way), self._batch):
                yield Evaluated.exact(rows, self._of_golden(strikes, rows, way == Way.OUTPUT), how)
        if len(rows := np.flatnonzero(ways == Way.WHOLE)):
            for found in self.whole.evaluate(strikes.take(rows)):
                yield Evaluated(rows[found.rows], found.outputs, found.how, found.bound)
        replay = Replay(self.stages, self.pieces, self.routes, self._goldens, self.golden, self._inputs)
        left = np.flatnonzero(~np.isin(ways, (Way.DEAD, Way.OUTPUT, Way.WHOLE)))
        for group in self._goldens.groups(strikes.image[left]):
            for rows in chunks(left[group], _STRIKES_AT_ONCE):
                slot = self._goldens.slots(strikes.image[rows])
                run = Run(replay, strikes.take(rows), ways[rows], ports[rows], tokens[rows], slot)
                for found in run.evaluate():
                    yield Evaluated(rows[found.rows], found.outputs, found.how, found.bound)

    def _of_golden(self, strikes: Strikes, rows: NDArray[np.int64], struck: bool) -> NDArray[np.float32]:
        outputs = self.golden[strikes.image[rows]]
        if struck:
            part = strikes.ports.take(rows)
            used = part.site != NO_SITE
            live = read_words(outputs, np.arange(len(rows)), part.index, used)
            check_live(part, live, self.stages.table)
            write_words(outputs, part.index, part.faulty, used)
        return outputs

    def _kept(self) -> list[str]:
        """Tensors whose golden values suffixes and parts start from."""
        names: dict[str, None] = {}
        for stage in self.stages.stages[1:]:
            names[stage.start] = None
            if stage.rowed is not None and (self.plan.inside or self.plan.rows):
                names |= dict.fromkeys(stage.rowed.middle_inputs)
                names |= dict.fromkeys(stage.rowed.tail.inputs)
        return list(names)
