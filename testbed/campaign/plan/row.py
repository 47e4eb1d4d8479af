"""Rows of a plan: one as a record, many by the column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from testbed.campaign.plan.draw import Draw, Stratum
from testbed.campaign.plan.fault_words import FaultWords
from testbed.core.fault import Masks, Op, Scope
from testbed.core.schema import PLAN_COLUMNS, arrow_schema
from testbed.core.site import Site, SiteTable, Where


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


class Origin(NamedTuple):
    """Where a fault was drawn from: the number of its stratum in the plan, that stratum's population, the probability that
    it was drawn, and in which round."""

    stratum: int
    population: int
    inclusion: float | None
    round: int = 0


class PlannedFault(NamedTuple):
    """A draw that the plan has. site: of its first word."""

    fault_id: int
    stratum: Stratum
    site: Site
    draw: Draw
    origin: Origin

    @property
    def faulty(self) -> FaultWords | None:
        """All its words, where they are more than one."""
        return self.draw.faulty


def planned_fault(fault_id: int, stratum: Stratum, draw: Draw, table: SiteTable, origin: Origin) -> PlannedFault:
    """A draw as a fault of the plan."""
    site = stratum.site if draw.faulty is None else table[draw.faulty.sites[0]]
    return PlannedFault(fault_id, stratum, site, draw, origin)


def fault_table(faults: Sequence[PlannedFault]) -> pa.Table:
    """Planned faults, in their order, columns ``PLAN_COLUMNS``; of several struck words each has the first."""
    schema = arrow_schema(PLAN_COLUMNS)
    numbers: dict[tuple[int, int, Origin], int] = {}
    codes = [numbers.setdefault((id(f.stratum), id(f.site), f.origin), len(numbers)) for f in faults]
    first = np.unique(np.array(codes, np.int64), return_index=True)[1]
    shared = _shared([faults[row] for row in first.tolist()])
    draws = [fault.draw for fault in faults]
    masks = np.array([draw.masks for draw in draws], np.uint32).reshape(-1, 3)
    drawn = {
        "fault_id": [fault.fault_id for fault in faults],
        "index": [draw.index for draw in draws],
        "and_mask": masks[:, 0],
        "or_mask": masks[:, 1],
        "xor_mask": masks[:, 2],
        "points": [1 if draw.faulty is None else len(draw.faulty) for draw in draws],
        "draw": [draw.number for draw in draws],
        "image_id": [draw.image_id for draw in draws],
        "image_ids": [draw.image_ids for draw in draws],
    }
    which = pa.array(codes, pa.int64())
    arrays = [
        pa.array(shared[field.name], field.type).take(which)
        if field.name in shared
        else pa.array(drawn[field.name], field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _shared(faults: Sequence[PlannedFault]) -> dict[str, list[object]]:
    """What all faults of a stratum have in common, one of each."""
    strata, sites, origins = ([getattr(fault, name) for fault in faults] for name in ("stratum", "site", "origin"))
    return {
        "target": [stratum.target for stratum in strata],
        "where": [site.where for site in sites],
        "site": [site.name for site in sites],
        "kind": [site.kind for site in sites],
        "block": [site.block for site in sites],
        "format": [site.format_name for site in sites],
        "op": [stratum.op for stratum in strata],
        "bit": [stratum.bit for stratum in strata],
        "bit_class": [site.format.bit_class(stratum.bit) for site, stratum in zip(sites, strata, strict=True)],
        "pattern": [stratum.pattern for stratum in strata],
        "scope": ["persistent" if stratum.persistent else "inference" for stratum in strata],
        "stratum": [origin.stratum for origin in origins],
        "round": [origin.round for origin in origins],
        "population": [origin.population for origin in origins],
        "inclusion": [origin.inclusion for origin in origins],
        "tier": [stratum.tier for stratum in strata],
    }
