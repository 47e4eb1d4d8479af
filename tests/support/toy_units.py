"""Orders to the toy handler, and what its units gave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from testbed.campaign.plan.unit import Unit
from testbed.campaign.results.arrow import from_stream


class ToyUnits:
    """A folder with orders, and the rows that were kept of each unit; for classes that have both."""

    folder: Any
    kept: dict[int, pa.Table]

    def order(self, orders: Mapping[int, str]) -> None:
        """What the handler is to do when it comes to these faults."""
        for fault, what in orders.items():
            (self.folder / str(fault)).write_text(what)

    def keep(self, unit: Unit, rows: bytes) -> None:
        """Keep a unit's rows, once."""
        assert unit.number not in self.kept
        self.kept[unit.number] = from_stream(rows)
