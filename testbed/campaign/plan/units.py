"""A plan cut into units of work: each a slice of one plan slice, small enough to lose, large enough to fill batches."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from testbed.campaign.plan.points import points_path
from testbed.campaign.plan.table import PlanSlice
from testbed.campaign.plan.unit import Unit
from testbed.campaign.results.arrow import coded
from testbed.campaign.results.fault_images import COLUMNS, rows_each
from testbed.campaign.results.reader import PLAN_TABLE
from testbed.core.site import Where


def slice_of(path: Path, start: int, stop: int) -> pa.Table:
    """Rows [start, stop) of a Parquet file, reading no more row groups than hold them."""
    state = path.stat()
    file = _opened(path, state.st_mtime_ns, state.st_size)
    tables, at = [], 0
    for group in range(file.num_row_groups):
        size = file.metadata.row_group(group).num_rows
        if at < stop and at + size > start:
            table = _row_group(path, state.st_mtime_ns, state.st_size, group)
            tables.append(table.slice(max(0, start - at), min(stop, at + size) - max(start, at)))
        at += size
    table = pa.concat_tables(tables).unify_dictionaries() if tables else file.schema_arrow.empty_table()
    return PLAN_TABLE.completed(table).combine_chunks()


@lru_cache(maxsize=1)
def _opened(path: Path, modified: int, size: int) -> pq.ParquetFile:
    return pq.ParquetFile(path)


@lru_cache(maxsize=2)
def _row_group(path: Path, modified: int, size: int, group: int) -> pa.Table:
    """Units follow each other in the file: the next one is mostly in the same row group."""
    return _opened(path, modified, size).read_row_group(group)


def plan_slice_of(path: Path, start: int, stop: int) -> PlanSlice:
    table = slice_of(path, start, stop)
    where = cast(Where, str(table.column("where")[0]))
    return PlanSlice(str(table.column("target")[0]), where, table, points_path(path))


def units_of(path: Path, name: str, images: int, rows_per_unit: int, first: int) -> Iterator[Unit]:
    """Units of one plan file, numbered from ``first``. A unit holds one plan slice's faults, of about ``rows_per_unit`` rows in
    all, at least one fault."""
    number, words = first, 0
    for start, stop, each, entries in _runs(path, images):
        step = max(1, rows_per_unit // each)
        counts = np.concatenate([[0], np.cumsum(entries)])
        for at in range(start, stop, step):
            end = min(at + step, stop)
            size = int(counts[end - start] - counts[at - start])
            rows = (end - at) * each
            yield Unit(number, name, start=at, stop=end, rows=rows, word=words, words=size, run=start)
            number, words = number + 1, words + size


def _runs(path: Path, images: int) -> Iterator[tuple[int, int, int, NDArray[np.int64]]]:
    """(start, stop, rows per fault, words per fault) of each run of one target, place, scope and number of images in the
    plan."""
    columns = ["target", "where", *COLUMNS, "points"]
    key: tuple[str, str, bool, int] | None = None
    start = stop = at = 0
    pending: list[NDArray[np.int64]] = []
    for table in PLAN_TABLE.batches(path, columns):
        target, where = coded(table.column("target")), coded(table.column("where"))
        persistent, each = table.column("image_id").is_null().to_numpy(), rows_each(table, images)
        keys = np.stack([target.codes, where.codes, persistent, each])
        edges = np.flatnonzero((keys[:, 1:] != keys[:, :-1]).any(axis=0)) + 1
        counts = word_counts(table, images)
        for low, high in pairwise([0, *edges.tolist(), len(table)]):
            of_run = (
                target.names[target.codes[low]],
                where.names[where.codes[low]],
                bool(persistent[low]),
                int(each[low]),
            )
            if of_run != key:
                if key is not None:
                    yield start, stop, key[3], np.concatenate(pending)
                key, start, pending = of_run, at + low, []
            pending.append(counts[low:high])
            stop = at + high
        at += len(table)
    if key is not None:
        yield start, stop, key[3], np.concatenate(pending)


def word_counts(plan: pa.Table, images: int) -> NDArray[np.int64]:
    """(faults,) how many golden words each planned fault has: one per struck element and image; weights have none."""
    activation = np.asarray(pc.equal(plan.column("where").cast(pa.string()), "activation"), bool)
    return plan.column("points").to_numpy().astype(np.int64) * rows_each(plan, images) * activation
