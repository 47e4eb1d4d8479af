"""Rows of a plan as records."""

from __future__ import annotations

from testbed.campaign.plan.row import PlanRow, rows_of, table_of
from testbed.core.fault import masks_for
from testbed.core.schema import PLAN_COLUMNS
from testbed.core.site import Site

SITES = [Site("head", "activation", (10,)), Site("block.3.mlp.fc1.weight", "weight", (8, 4), "fp16")]


def rows() -> list[PlanRow]:
    masks = (masks_for("flip", site.format, 3) for site in SITES)
    return [
        PlanRow.single("model", site, "flip", 3, 7, mask, "a" if site.where == "activation" else None, number)
        for number, (site, mask) in enumerate(zip(SITES, masks, strict=True))
    ]


def test_a_row_has_the_columns_of_a_plan_in_their_order() -> None:
    assert PlanRow._fields == tuple(column.name for column in PLAN_COLUMNS)


def test_rows_come_back_from_their_table() -> None:
    table = table_of(rows())
    assert table.column("index").to_pylist() == [7, 7]
    assert table.column("block").to_pylist() == [None, 3]
    assert rows_of(table) == rows()


def test_no_rows_make_an_empty_table_of_the_same_columns() -> None:
    assert table_of([]).schema == table_of(rows()).schema
