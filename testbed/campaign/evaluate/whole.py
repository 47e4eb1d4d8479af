"""The evaluation that all others are held against: the whole instrumented engine, one strike per batch row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.evaluate.contract import Evaluated, FaultyRun, Injections, RunWhole, check_live
from testbed.campaign.folder.engine import CampaignEngine
from testbed.core.arrays import Int64s
from testbed.core.outcome import How
from testbed.engines.runner import WeightFault, WeightInjector, faulty_weights


class WholeTwin:
    """An `Evaluator`. Raises EngineError when the engine fails, NotDeterministic when a live word is not golden."""

    def __init__(self, engine: CampaignEngine) -> None:
        self.engine = engine

    @property
    def golden(self) -> NDArray[np.float32]:
        return self.engine.golden

    def evaluate(self, injections: Injections) -> Iterator[Evaluated]:
        for start in range(0, len(injections), self.engine.batch):
            rows = np.arange(start, min(start + self.engine.batch, len(injections)))
            part = injections.take(rows)
            outputs, live = self.engine.run(part.image, part.ports)
            assert live is not None
            check_live(part.ports, live, self.engine.table)
            yield Evaluated.exact(rows, outputs, How.WHOLE)


def whole_weights(engine: CampaignEngine) -> RunWhole:
    """Injects faults into the engine's weights, and runs all of it."""

    runner = engine.runner
    assert isinstance(runner, WeightInjector)

    def inject(places: Sequence[WeightFault], images: Int64s | None = None) -> FaultyRun:
        if not places:
            return FaultyRun(engine.golden if images is None else engine.golden[images], [], How.WHOLE)
        with faulty_weights(runner, places) as words:
            return FaultyRun(engine.outputs(images), list(words), How.WHOLE)

    return inject
