"""What each result row stands for: strata are sampled at different rates, so a row that is counted needs its weight.

A stratum of N faults (or places, where what strikes is random) with M rows gives each of them the weight N / M. Then the
rate of a group of rows is ``sum w y / sum w``, which is the summary's estimate (`testbed.analysis.survey`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from testbed.campaign.results.fault_images import COLUMNS, rows_each
from testbed.campaign.results.reader import PLAN_TABLE

_ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class RowWeights:
    """Weights of rows, by the stratum's number: its population, and the rows that its faults give."""

    population: NDArray[np.int64]
    rows: NDArray[np.int64]

    @classmethod
    def of(cls, plan: Path, images: int) -> RowWeights:
        """Reads weights from the plan's file. images: rows of a fault that is run on every named image."""
        population, rows = np.zeros(0, np.int64), np.zeros(0, np.int64)
        for batch in PLAN_TABLE.batches(plan, ["stratum", "population", *COLUMNS], _ROWS_AT_ONCE):
            stratum = batch.column("stratum").to_numpy()
            lacking = max(0, int(stratum.max(initial=-1)) + 1 - len(rows))
            population, rows = np.pad(population, (0, lacking)), np.pad(rows, (0, lacking))
            population[stratum] = batch.column("population").to_numpy()
            np.add.at(rows, stratum, rows_each(batch, images))
        return cls(population, rows)

    def added(self, rows: pa.Table) -> pa.Table:
        """The rows with a column "weight"."""
        stratum = rows.column("stratum").to_numpy()
        return rows.append_column("weight", pa.array(self.population[stratum] / self.rows[stratum]))
