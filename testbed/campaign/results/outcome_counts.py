"""Outcomes counted while rows come in, and the interval that is widest by them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from testbed.analysis.stats import proportion_interval
from testbed.campaign.results.snapshot import Widest
from testbed.core.outcome import Outcome

COLUMNS = ["fault_id", "target", "where", "block", "outcome"]
_CRITICAL = pa.array([Outcome.SDC1, Outcome.SDC], pa.string())


class OutcomeCounts:
    """Outcomes of rows, and the rate of critical ones (SDC-1, or SDC where there are no classes) per block."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self._groups: dict[tuple[str, str, int | None], list[float]] = {}  # faults, and their critical shares' sum

    def add(self, rows: pa.Table, times: int = 1) -> None:
        """Counts rows. rows: at least `COLUMNS`; all rows of a fault in the same table. times: -1 takes them back."""
        rows = rows.select(COLUMNS)
        rows = rows.set_column(4, "outcome", rows.column("outcome").cast(pa.string()))
        for name in ("target", "where"):
            rows = rows.set_column(rows.column_names.index(name), name, rows.column(name).cast(pa.string()))
        counted = pc.value_counts(rows.column("outcome").combine_chunks())
        self.outcomes.update({str(item["values"]): times * int(item["counts"]) for item in counted.to_pylist()})
        hit = pc.cast(pc.is_in(rows.column("outcome"), value_set=_CRITICAL), pa.float64())
        keys = ["target", "where", "block"]
        groups = (
            rows.append_column("hit", hit).group_by(keys).aggregate([("hit", "mean"), ("fault_id", "count_distinct")])
        )
        for group in groups.to_pylist():
            of_group = self._groups.setdefault((group["target"], group["where"], group["block"]), [0, 0.0])
            of_group[0] += times * group["fault_id_count_distinct"]
            of_group[1] += times * group["fault_id_count_distinct"] * group["hit_mean"]
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
