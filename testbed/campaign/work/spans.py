"""Units of work that are handed out together, so that what each costs besides its faults is paid once.

Whatever its size, a unit costs some milliseconds more than its faults do: calls to its worker, tables that are made, sent and
counted, a frame that waits for the disk. Units that take much longer stay alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from testbed.campaign.plan.unit import Unit

SPAN_S = 0.25  # what a kill can cost each worker, where its units are shorter
SPAN_ROWS = 4096  # as many as the largest unit that is measured has: memory stays what it is
_GROWTH = 4


class Spans:
    """Neighbouring units, joined to as many as take about `SPAN_S` seconds, as earlier ones of this process did.

    A unit that is longer is a span of its own. `kept` must be told of each span that is finished. Spans are taken by several
    threads, one at a time, and kept by another.
    """

    def __init__(self, units: Iterable[Unit], clock: Callable[[], float] = time.perf_counter) -> None:
        self._units, self._clock = deque(units), clock
        self._begun: dict[int, float] = {}
        self._rows = 0  # of a span: nothing is known before the first is kept

    def __iter__(self) -> Iterator[Unit]:
        while self._units:
            span = self._units.popleft()
            while self._units and self._fits(span, self._units[0]):
                span = span.joined(self._units.popleft())
            self._begun[span.number] = self._clock()
            yield span

    def _fits(self, span: Unit, unit: Unit) -> bool:
        return span.rows + unit.rows <= self._rows and span.precedes(unit)

    def kept(self, span: Unit) -> None:
        """Seconds from its hand-out count: they have all that a span costs, and at most one other that it waited for."""
        begun = self._begun.pop(span.number, None)
        if begun is None:  # it is kept again, after its first rows were dropped
            return
        seconds = max(self._clock() - begun, 1e-6)
        self._rows = int(min(span.rows * SPAN_S / seconds, span.rows * _GROWTH, SPAN_ROWS))
