"""The plan: ``faults.parquet``, every fault of the campaign in the order it will run, decided before the first one
runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from testbed.campaign.draw import draws, strata
from testbed.campaign.spec import CampaignSpec
from testbed.core.errors import StaleArtefact
from testbed.core.fault import Masks
from testbed.core.files import atomic_path
from testbed.core.schema import PLAN_COLUMNS, SCHEMA_VERSION, arrow_schema
from testbed.core.site import Site, SiteTable


def plan_table(spec: CampaignSpec, tables: Mapping[str, SiteTable], tier_images: Sequence[Sequence[str]]) -> pa.Table:
    """All faults of the campaign, columns ``PLAN_COLUMNS``. tier_images: ids of the named images per tier."""
    rows: list[dict[str, Any]] = []
    number = 0
    for section in spec.faults:
        for stratum in strata(section, tables[section.target], tier_images):
            chosen = draws(stratum, section.per_stratum, spec.seed)
            for draw in chosen:
                row = fault_row(
                    stratum.target, stratum.site, stratum.op, stratum.bit, draw.index, draw.masks, draw.image_id
                )
                row |= {
                    "fault_id": len(rows),
                    "stratum": number,
                    "draw": draw.number,
                    "population": stratum.population,
                    "inclusion": len(chosen) / stratum.population,
                    "tier": stratum.tier,
                }
                rows.append(row)
            number += 1
    return table_of(rows)


def fault_row(
    target: str, site: Site, op: str, bit: int | None, index: int, masks: Masks, image_id: str | None
) -> dict[str, Any]:
    """One planned fault, outside any stratum (a sampler adds where it was drawn from)."""
    return {
        "fault_id": 0,
        "target": target,
        "where": site.where,
        "site": site.name,
        "kind": site.kind,
        "block": site.block,
        "index": index,
        "format": site.format_name,
        "op": op,
        "bit": bit,
        "bit_class": site.format.bit_class(bit),
        "and_mask": masks.and_mask,
        "or_mask": masks.or_mask,
        "xor_mask": masks.xor_mask,
        "points": 1,
        "pattern": "single",
        "scope": "inference" if site.where == "activation" else "persistent",
        "round": 0,
        "stratum": 0,
        "draw": 0,
        "population": 1,
        "inclusion": 1.0,
        "image_id": image_id,
        "tier": None,
    }


def table_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    columns = {column.name: [row[column.name] for row in rows] for column in PLAN_COLUMNS}
    return pa.table(columns, schema=arrow_schema(PLAN_COLUMNS)).combine_chunks()


def write_plan(path: Path, table: pa.Table) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


@dataclass(frozen=True)
class Leg:
    """The faults of one (target, place), in plan order, as NumPy columns: what one engine runs."""

    target: str
    where: str
    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def column(self, name: str) -> NDArray:
        return self.table.column(name).to_numpy()

    @cached_property
    def sites(self) -> NDArray[np.object_]:
        return np.array(self.table.column("site").cast(pa.string()).to_pylist(), object)

    @cached_property
    def image_ids(self) -> list[str | None]:
        ids: list[str | None] = self.table.column("image_id").cast(pa.string()).to_pylist()
        return ids

    @cached_property
    def masks(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32]]:
        return self.column("and_mask"), self.column("or_mask"), self.column("xor_mask")


def read_plan(path: Path) -> pa.Table:
    """Raises StaleArtefact for a damaged file or another schema version."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise StaleArtefact(f"{path} is not a readable plan; rerun with --redo plan") from error
    found = (table.schema.metadata or {}).get(b"schema_version", b"").decode()
    if found != str(SCHEMA_VERSION):
        raise StaleArtefact(f"{path} has schema version {found or 'none'}, this testbed reads {SCHEMA_VERSION}")
    return table


def legs(plan: pa.Table) -> Iterator[Leg]:
    """The plan cut into runs of equal (target, where), in plan order."""
    targets = plan.column("target").cast(pa.string()).to_pylist()
    places = plan.column("where").cast(pa.string()).to_pylist()
    start = 0
    for end in range(1, len(targets) + 1):
        if end == len(targets) or (targets[end], places[end]) != (targets[start], places[start]):
            yield Leg(targets[start], places[start], plan.slice(start, end - start).combine_chunks())
            start = end
