"""A worker whose rows are made up, on machines where TESTBED_FORGES says how; for the tests of clusters."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from testbed.campaign.execute.worker import Worker
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.plan.unit import Unit
from testbed.campaign.results.arrow import from_stream, to_stream


class Forger(Worker):
    def run(self, unit: Unit, faults: Sequence[int] | None = None, retried: bool = False) -> bytes:
        rows = super().run(unit, faults, retried)
        how = os.environ.get("TESTBED_FORGES")
        if how is None:
            return rows
        table = from_stream(rows)
        if how == "fewer":
            return to_stream(table.slice(1))
        place = table.column_names.index("margin_faulty")
        forged = table.column(place).to_numpy().astype(np.float32) + np.float32(0.25)
        return to_stream(table.set_column(place, table.schema.field(place), pa.array(forged)))


def open_forger(folder: str) -> Forger:
    return Forger(Workplace.at(Path(folder)))
