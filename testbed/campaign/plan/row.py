"""One row of a plan: a fault, where it was drawn from, and what is done to its first word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from testbed.core.fault import Masks, Op, Scope
from testbed.core.schema import PLAN_COLUMNS, arrow_schema
from testbed.core.site import Site, Where


class PlanRow(NamedTuple):
    """A field per column of a plan, in their order: see `testbed.core.schema.PLAN_COLUMNS`. Of several struck words it has
    the first."""

    fault_id: int
    target: str
    where: Where
    site: str
    kind: str
    block: int | None
    index: int  # type: ignore[assignment]  # the column's name, and a method of every tuple
    format: str
    op: Op
    bit: int | None
    bit_class: str
    and_mask: int
    or_mask: int
    xor_mask: int
    points: int
    pattern: str
    scope: Scope
    stratum: int
    round: int
    draw: int
    population: int
    inclusion: float | None
    image_id: str | None
    tier: int | None
    image_ids: tuple[str, ...] | None = None

    @classmethod
    def single(
        cls,
        target: str,
        site: Site,
        op: Op,
        bit: int | None,
        index: int,
        masks: Masks,
        image_id: str | None,
        fault_id: int = 0,
    ) -> PlanRow:
        """A single fault outside any stratum."""
        return cls(
            fault_id=fault_id,
            target=target,
            where=site.where,
            site=site.name,
            kind=site.kind,
            block=site.block,
            index=index,
            format=site.format_name,
            op=op,
            bit=bit,
            bit_class=site.format.bit_class(bit),
            and_mask=masks.and_mask,
            or_mask=masks.or_mask,
            xor_mask=masks.xor_mask,
            points=1,
            pattern="single",
            scope="inference" if site.where == "activation" else "persistent",
            stratum=0,
            round=0,
            draw=0,
            population=1,
            inclusion=1.0,
            image_id=image_id,
            tier=None,
        )


def table_of(rows: Sequence[PlanRow]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ((),) * len(PLAN_COLUMNS)
    return pa.table(list(map(list, columns)), schema=arrow_schema(PLAN_COLUMNS)).combine_chunks()


def rows_of(plan: pa.Table) -> list[PlanRow]:
    rows = plan.select([column.name for column in PLAN_COLUMNS]).to_pylist()
    return [PlanRow(**row | {"image_ids": row["image_ids"] and tuple(row["image_ids"])}) for row in rows]
