"""Outcomes counted while rows come in, and the interval that is widest by them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from testbed.analysis.stats import proportion_interval
from testbed.campaign.results.arrow import coded
from testbed.campaign.results.snapshot import Widest
from testbed.core.outcome import Outcome

COLUMNS = ["fault_id", "target", "where", "block", "outcome"]
_CRITICAL = (Outcome.SDC1, Outcome.SDC)
_NO_BLOCK = -1


class OutcomeCounts:
    """Outcomes of rows, and the rate of critical ones (SDC-1, or SDC where there are no classes) per block."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self._groups: dict[tuple[str, str, int | None], list[float]] = {}  # faults, and their critical shares' sum

    def add(self, rows: pa.Table, times: int = 1) -> None:
        """Counts rows. rows: at least `COLUMNS`; all rows of a fault in the same table. times: -1 takes them back."""
        if not rows.num_rows:
            return
        outcomes, outcome = coded(rows.column("outcome"))
        for code, count, _ in _counted(outcome):
            self.outcomes[outcomes[code]] += times * count
        critical = np.isin(outcome, [outcomes.index(name) for name in _CRITICAL if name in outcomes])
        targets, target = coded(rows.column("target"))
        wheres, where = coded(rows.column("where"))
        block = pc.fill_null(rows.column("block"), _NO_BLOCK).to_numpy().astype(np.int64) - _NO_BLOCK
        group = (target * len(wheres) + where) * (int(block.max()) + 1) + block
        fault = rows.column("fault_id").to_numpy()
        for _, count, first in _counted(group):
            of_group = group == group[first]
            number = int(block[first]) + _NO_BLOCK
            name = targets[target[first]], wheres[where[first]], None if number == _NO_BLOCK else number
            sums = self._groups.setdefault(name, [0, 0.0])
            faults = len(np.unique(fault[of_group]))
            sums[0] += times * faults
            sums[1] += times * faults * (np.count_nonzero(critical[of_group]) / count)
        if times < 0:
            self.outcomes = +self.outcomes
            self._groups = {name: of_group for name, of_group in self._groups.items() if of_group[0]}

    @property
    def widest(self) -> Widest | None:
        if not self._groups:
            return None
        names = list(self._groups)
        faults, hits = np.array(list(self._groups.values())).T
        interval = proportion_interval(np.minimum(hits, faults), faults)
        half = (interval.high - interval.low) / 2
        worst = int(half.argmax())
        target, where, block = names[worst]
        depth = "outside the blocks" if block is None else f"block {block}"
        return Widest(f"{target} {where}, {depth}", int(faults[worst]), round(float(half[worst]), 6))


def _counted(codes: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """(code, how many, first place) of each code, in order of first appearance."""
    counts = np.bincount(codes)
    of_codes = [(code, int(counts[code]), int((codes == code).argmax())) for code in np.flatnonzero(counts).tolist()]
    return sorted(of_codes, key=lambda of_code: of_code[2])
