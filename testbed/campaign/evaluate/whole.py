"""The evaluation that all others are held against: the whole instrumented engine, one strike per batch row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.evaluate.contract import Evaluated, FaultyRun, Injections, RunWhole, check_live
from testbed.campaign.folder.engine import CampaignEngine
from testbed.core.outcome import How
from testbed.engines.runner import WeightFault, WeightInjector, faulty_weights


class WholeTwin:
    """An `Evaluator`. Raises EngineError when the engine fails, NotDeterministic when a live word is not golden."""

    def __init__(self, bench: CampaignEngine) -> None:
        self.bench = bench

    @property
    def golden(self) -> NDArray[np.float32]:
        return self.bench.golden

    def evaluate(self, strikes: Injections) -> Iterator[Evaluated]:
        for start in range(0, len(strikes), self.bench.batch):
            rows = np.arange(start, min(start + self.bench.batch, len(strikes)))
            part = strikes.take(rows)
            outputs, live = self.bench.run(part.image, part.ports)
            assert live is not None
            check_live(part.ports, live, self.bench.table)
            yield Evaluated.exact(rows, outputs, How.WHOLE)


def whole_weights(bench: CampaignEngine) -> RunWhole:
    """Strikes weights of the bench's own engine, and runs all of it."""

    runner = bench.runner
    assert isinstance(runner, WeightInjector)

    def strike(places: Sequence[WeightFault]) -> FaultyRun:
        if not places:
            return FaultyRun(bench.golden, [], How.WHOLE)
        with faulty_weights(runner, places) as words:
            return FaultyRun(bench.outputs(), list(words), How.WHOLE)

    return strike
