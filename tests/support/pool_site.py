"""A folder where toy handlers work for a pool, and what became of their units."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from testbed.campaign.plan.unit import Unit
from testbed.campaign.work.contract import Limits, Opener, Report
from testbed.campaign.work.pool import LocalPool
from tests.support.toy_handler import open_toy
from tests.support.toy_units import ToyUnits

SIZE = 8
PATIENT = Limits(floor_s=30.0, open_s=60.0, backoff_s=0.02)


def units(n: int) -> list[Unit]:
    return [Unit(number=number, plan="plan", start=SIZE * number, stop=SIZE * (number + 1)) for number in range(n)]


@dataclass
class Site(ToyUnits):
    """Where toys work. Orders: fault -> what it does and when; see `toy_handler`."""

    folder: Path
    kept: dict[int, pa.Table] = field(default_factory=dict)

    def opener(self, golden: str = "toy", opening: str = "") -> Opener:
        return Opener(open_toy, (str(self.folder), "toy", opening), {"model.activation": golden})

    def run(self, n: int, children: int = 2, limits: Limits = PATIENT, opening: str = "", **more: Any) -> Report:
        with LocalPool(self.opener(opening=opening), children, limits) as pool:
            return pool.run(units(n), more.pop("keep", self.keep), **more)

    @property
    def rows(self) -> list[dict[str, Any]]:
        tables = [self.kept[number].select(["fault_id", "value", "infrastructure_failure", "due"]) for number in self]
        return [row for table in tables for row in table.to_pylist()]

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self.kept))

    def log(self, what: str) -> list[str]:
        return [line for line in (self.folder / "log").read_text().splitlines() if re.search(what, line)]


def assert_rows(
    rows: list[dict[str, Any]], n: int, due: Mapping[int, str] | None = None, flagged: tuple[int, ...] = ()
) -> None:
    """Every fault has its one row, in plan order, and only these faults are blamed or marked."""
    due = due or {}
    assert [row["fault_id"] for row in rows] == list(range(SIZE * n))
    assert {row["fault_id"]: row["due"] for row in rows if row["due"]} == due
    assert [row["fault_id"] for row in rows if row["infrastructure_failure"]] == list(flagged)
    assert all(row["value"] == row["fault_id"] ** 2 for row in rows if not row["due"])
