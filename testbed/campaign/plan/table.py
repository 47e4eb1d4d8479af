"""The plan: ``faults.parquet``, every fault of the campaign in the order it will run, decided before the first one
runs; and the words of those that strike several (`testbed.campaign.plan.points`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from testbed.campaign.plan import points
from testbed.campaign.plan.draw import drawn
from testbed.campaign.plan.fault_words import FaultWords
from testbed.campaign.plan.points import Points, read_points
from testbed.campaign.plan.row import Origin, PlannedFault, fault_table, planned_fault
from testbed.campaign.plan.sections import sampled_strata
from testbed.campaign.results.arrow import Coded, coded, parquet_writer
from testbed.campaign.results.reader import PLAN_TABLE
from testbed.campaign.spec.campaign import CampaignSpec
from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.folder.files import atomic_path
from testbed.core.schema import PLAN_COLUMNS, READABLE_VERSIONS, arrow_schema
from testbed.core.site import SiteTable, Where

_MOST_FAULTS = 1_000_000_000
_PART_FAULTS = 1 << 14
PART_WORDS = 1 << 18


class PlanPart(NamedTuple):
    """Part of a plan. faults: columns ``PLAN_COLUMNS``, in plan order; points: the words of those that strike several,
    columns ``points.SCHEMA``."""

    faults: pa.Table
    points: pa.Table


def planned(
    spec: CampaignSpec, tables: Mapping[str, SiteTable], tier_images: Sequence[Sequence[str]]
) -> Iterator[PlanPart]:
    """All faults of the campaign, in parts of bounded size. tier_images: ids of the named images per tier.

    Raises UsageError for a tensor that has no room for a section's pattern, and for more faults than anybody can run.
    """
    check_decided(spec)
    return in_parts(_faults(spec, tables, tier_images))


def check_decided(spec: CampaignSpec) -> None:
    """Raises ValueError for a spec whose persistent faults are run on a number of images that is not decided yet."""
    if spec.auto_places:
        raise ValueError(f"no pilot has decided on how many images faults in {spec.auto_places[0]} are run")


def _faults(
    spec: CampaignSpec, tables: Mapping[str, SiteTable], tier_images: Sequence[Sequence[str]]
) -> Iterator[PlannedFault]:
    faults = sum(sampled.drawn for sampled in sampled_strata(spec.faults, tables, tier_images))
    if faults > _MOST_FAULTS:
        raise UsageError(
            f"faults.per_stratum: the plan would have {faults:,} faults; ask for fewer, {_MOST_FAULTS:,} in all at most"
        )
    fault_ids = count()
    for number, sampled in enumerate(sampled_strata(spec.faults, tables, tier_images)):
        stratum, chosen = sampled.stratum, sampled.drawn
        origin = Origin(number, stratum.population, stratum.inclusion(chosen))
        for draw in drawn(stratum, chosen, spec.seed):
            yield planned_fault(next(fault_ids), stratum, draw, tables[stratum.target], origin)


def in_parts(faults: Iterable[PlannedFault]) -> Iterator[PlanPart]:
    """The faults as tables of bounded size; at least one, which may be empty."""
    rows: list[PlannedFault] = []
    several: list[tuple[int, FaultWords]] = []
    words, parts = 0, 0
    for fault in faults:
        rows.append(fault)
        if fault.faulty is not None and len(fault.faulty) > 1:
            several.append((fault.fault_id, fault.faulty))
            words += len(fault.faulty)
        if len(rows) >= _PART_FAULTS or words >= PART_WORDS:
            yield PlanPart(fault_table(rows), _points(several))
            rows, several, words, parts = [], [], 0, parts + 1
    if rows or not parts:
        yield PlanPart(fault_table(rows), _points(several))


def _points(several: Sequence[tuple[int, FaultWords]]) -> pa.Table:
    sizes = [len(faulty) for _, faulty in several]
    masks = np.concatenate([np.zeros((0, 3), np.uint32), *(faulty.masks for _, faulty in several)])
    sites = [name for _, faulty in several for name in faulty.sites]
    columns = {
        "fault_id": np.repeat(np.array([number for number, _ in several], np.int64), sizes),
        "point": np.concatenate([np.zeros(0, np.int32), *(np.arange(size, dtype=np.int32) for size in sizes)]),
        "site": pa.array(sites, pa.string()).dictionary_encode(),
        "index": np.concatenate([np.zeros(0, np.int64), *(faulty.index for _, faulty in several)]),
        "and_mask": masks[:, 0],
        "or_mask": masks[:, 1],
        "xor_mask": masks[:, 2],
    }
    return pa.table(columns, schema=points.SCHEMA)


def write_plan(path: Path, plan: pa.Table | Iterable[PlanPart]) -> int:
    """Writes the plan and, beside it, its points, a part at a time; how many faults there are.

    A table alone is a plan of single faults.
    """
    parts = [PlanPart(plan, points.SCHEMA.empty_table())] if isinstance(plan, pa.Table) else plan
    faults = 0
    with atomic_path(path) as temporary, atomic_path(points.points_path(path)) as beside, ExitStack() as stack:
        writers: tuple[pq.ParquetWriter, pq.ParquetWriter] | None = None
        for part in parts:
            if writers is None:
                opened = ((temporary, part.faults), (beside, part.points))
                writers = tuple(stack.enter_context(parquet_writer(file, table.schema)) for file, table in opened)
            for writer, table in zip(writers, part, strict=True):
                writer.write_table(table)
            faults += part.faults.num_rows
    return faults


@dataclass(frozen=True)
class PlanSlice:
    """The faults of one (target, place), in plan order, as NumPy columns: what one engine runs.

    ``points_path``: where the words of faults that strike several are; not needed where none does.
    """

    target: str
    where: Where
    table: pa.Table
    points_path: Path | None = None

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def take(self, faults: Sequence[int] | NDArray[np.int64]) -> PlanSlice:
        """Those faults, by their row, ascending."""
        return replace(self, table=self.table.take(pa.array(faults, pa.int64())))

    @cached_property
    def points(self) -> Points:
        """The struck words of every fault, read from the plan's points where there are several. Raises StaleArtefact for
        a points file that does not have them."""
        singles = Points.single(self.sites, self.column("index"), self.masks)
        several = np.flatnonzero(self.column("points") > 1)
        if not len(several):
            return singles
        if self.points_path is None:
            raise StaleArtefact("faults that strike several words were taken from their plan without its points")
        return singles.with_more(several, read_points(self.points_path, self.column("fault_id")[several]))

    def column(self, name: str) -> NDArray:
        return self.table.column(name).to_numpy()

    @property
    def sites(self) -> Coded:
        """Name the site of each fault's first word."""
        return coded(self.table.column("site"))

    @cached_property
    def lasting(self) -> NDArray[np.bool_]:
        """(faults,) whether each is persistent."""
        return np.asarray(self.table.column("image_id").is_null().to_numpy(), bool)

    @cached_property
    def masks(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32]]:
        return self.column("and_mask"), self.column("or_mask"), self.column("xor_mask")


def read_plan(path: Path) -> pa.Table:
    """Raises StaleArtefact for a damaged file, columns that are not a plan's, or another schema version."""
    table = PLAN_TABLE.read(path).unify_dictionaries().combine_chunks()
    version = (table.schema.metadata or {}).get(b"schema_version", b"").decode()
    if version not in map(str, READABLE_VERSIONS):
        readable = ", ".join(map(str, READABLE_VERSIONS))
        raise PLAN_TABLE.refused(path, f"it has schema version {version or 'none'}, this testbed reads {readable}")
    return table


def widest(path: Path) -> int:
    """The most words that one fault of a plan strikes, told by the file's statistics."""
    metadata = pq.ParquetFile(path).metadata
    column = arrow_schema(PLAN_COLUMNS).get_field_index("points")
    groups = (metadata.row_group(number).column(column).statistics for number in range(metadata.num_row_groups))
    return max((int(group.max) for group in groups if group is not None and group.has_min_max), default=1)


def plan_slices(plan: pa.Table) -> Iterator[PlanSlice]:
    """The plan cut into runs of equal (target, where), in plan order."""
    targets = plan.column("target").cast(pa.string()).to_pylist()
    places = plan.column("where").cast(pa.string()).to_pylist()
    start = 0
    for end in range(1, len(targets) + 1):
        if end == len(targets) or (targets[end], places[end]) != (targets[start], places[start]):
            yield PlanSlice(targets[start], cast(Where, places[start]), plan.slice(start, end - start).combine_chunks())
            start = end
