"""What follows an alarm of the engine's own checks: the image is run again, really, and judged as the first run was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.analysis.outputs.outcome import Outcomes
from testbed.campaign.folder.engine import CampaignEngine
from testbed.campaign.folder.judge import Judge
from testbed.core.arrays import Bools
from testbed.core.outcome import OUTCOMES, Outcome
from testbed.instrument.ports.feed import PortFeed

_DETECTED = OUTCOMES.index(Outcome.DETECTED)
_WITHIN = [OUTCOMES.index(outcome) for outcome in (Outcome.IDENTICAL, Outcome.MASKED)]

RunAgain = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""(m,) which of the rows -> (m, ...) outputs of a second run of each."""


@dataclass(frozen=True)
class SecondRuns:
    """(n,) which rows were run again, and of which that gave an output within the tolerance, without another alarm."""

    ran: Bools
    recovered: Bools

    @classmethod
    def of(
        cls,
        engine: CampaignEngine,
        judge: Judge,
        outcomes: Outcomes,
        image: NDArray[np.int64],
        run_again: RunAgain,
    ) -> SecondRuns:
        """Runs rows with an alarm again. image: (n,) of each row."""
        ran = np.asarray(outcomes.outcome == _DETECTED)
        recovered = np.zeros(len(ran), bool)
        if ran.any():
            again = judge.outcomes(engine, run_again(np.flatnonzero(ran)), image[ran])
            recovered[ran] = np.isin(again.outcome, _WITHIN)
        return cls(ran, recovered)


def fault_free(engine: CampaignEngine, image: NDArray[np.int64]) -> NDArray[np.float32]:
    """(m, ...) outputs of runs in which nothing is struck: a fault of one inference is gone, weights are as stored.

    image: (m,) rows of the named images.
    """
    parts = [np.empty((0, *engine.golden.shape[1:]), np.float32)]
    for start in range(0, len(image), engine.batch):
        rows = image[start : start + engine.batch]
        parts.append(engine.run(rows, PortFeed.idle(len(rows)) if engine.where == "activation" else None)[0])
    return np.concatenate(parts)
