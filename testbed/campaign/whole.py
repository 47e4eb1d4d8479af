"""The evaluation that all others are held against: the whole instrumented engine, one strike per batch row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.bench import Bench
from testbed.campaign.evaluation import Evaluated, How, NotDeterministic, Strikes
from testbed.core.site import SiteTable
from testbed.instrument.feed import NO_SITE, PortFeed, Words


class WholeTwin:
    """An `Evaluator`. Raises EngineError when the engine fails, NotDeterministic when a live word is not golden."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    @property
    def golden(self) -> NDArray[np.float32]:
        return self.bench.golden

    def evaluate(self, strikes: Strikes) -> Iterator[Evaluated]:
        for start in range(0, len(strikes), self.bench.batch):
            rows = np.arange(start, min(start + self.bench.batch, len(strikes)))
            part = strikes.take(rows)
            outputs, live = self.bench.run(part.image, part.ports)
            assert live is not None
            check_live(part.ports, live, self.bench.table)
            yield Evaluated.exact(rows, outputs, How.WHOLE)


def check_live(ports: PortFeed, live: Words, table: SiteTable) -> None:
    """Raises NotDeterministic where an element did not hold its golden word when it was struck.

    Of a strike at several sites only the first is looked at: what is struck there may change what the others hold.
    """
    struck = ports.site != NO_SITE
    first = np.where(struck, ports.site, np.iinfo(np.int64).max).min(axis=1, keepdims=True)
    wrong = np.argwhere(struck & (ports.site == first) & (live != ports.golden))
    if len(wrong):
        row, point = wrong[0]
        name = list(table.ports)[ports.site[row, point]]
        raise NotDeterministic(
            f"{name}[{ports.index[row, point]}] was {live[row, point]:#x} in the engine and"
            f" {ports.golden[row, point]:#x} in its golden run: this engine is not deterministic at these settings"
        )
