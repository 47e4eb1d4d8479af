"""Rows that came from elsewhere: whether they can be a unit's at all, and whether two workers' are the same, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from testbed.campaign.folder.images import NamedImages
from testbed.campaign.plan.unit import Unit
from testbed.campaign.plan.units import slice_of
from testbed.campaign.results.arrow import from_stream
from testbed.campaign.results.reader import ROW_SCHEMA
from testbed.core.schema import FAULT_COLUMNS

Expect = Callable[[Unit, bytes], str | None]
"""Why a stream cannot be the rows of a unit; None where it can."""

# What rows of one fault may differ in: an engine of another version with the same golden bits, a worker that once failed.
_OF_THE_WORKER = {"engine_hash", "infrastructure_failure"}


def planned_rows(folder: Path, images: NamedImages) -> Expect:
    """Holds rows against the plan: columns, number, and every fault and image they say they are of."""
    ids = pa.array(images.ids, pa.string())

    def expect(unit: Unit, rows: bytes) -> str | None:
        try:
            table = read_rows(rows)
        except ValueError as error:
            return str(error)
        plan = slice_of(folder / unit.plan, unit.start, unit.stop)
        fault, image = images.of_faults(plan)
        wanted = plan.select([column.name for column in FAULT_COLUMNS]).take(fault)
        wanted = wanted.append_column("image_id", ids.take(pa.array(image)))
        if table.schema != ROW_SCHEMA:
            return _other_columns(table.schema, ROW_SCHEMA)
        return _difference(table.select(wanted.column_names), wanted)

    return expect


def read_rows(rows: bytes) -> pa.Table:
    """Raises ValueError, with why, for what is no whole stream of rows."""
    try:
        table = from_stream(rows)
        table.validate(full=True)
    except (pa.ArrowException, OSError, TypeError, ValueError) as error:
        raise ValueError(f"its rows cannot be read ({' '.join(str(error).split())[:120]})") from error
    return table


def difference(first: bytes, second: bytes) -> str | None:
    """How rows differ from those of the same unit, run again elsewhere; None where every bit is the same."""
    try:
        given, wanted = read_rows(first), read_rows(second)
    except ValueError as error:
        return str(error)
    if given.schema.names != wanted.schema.names or given.schema.types != wanted.schema.types:
        return _other_columns(given.schema, wanted.schema)
    return _difference(given, wanted)


def _other_columns(given: pa.Schema, wanted: pa.Schema) -> str:
    missing = [name for name in wanted.names if name not in given.names]
    more = [name for name in given.names if name not in wanted.names]
    kinds = [name for name in wanted.names if name in given.names and given.field(name).type != wanted.field(name).type]
    named = [f"without {name}" for name in missing[:1]] + [f"with {name!r}" for name in more[:1]]
    named += [f"{name} as {given.field(name).type}" for name in kinds[:1]]
    return f"its rows have other columns ({', '.join(named) or 'in another order'})"


def _difference(given: pa.Table, wanted: pa.Table) -> str | None:
    if given.num_rows != wanted.num_rows:
        return f"it gave {given.num_rows} rows where there are {wanted.num_rows}"
    for name in wanted.column_names:
        if name in _OF_THE_WORKER:
            continue
        given_bits, wanted_bits = _bits(given.column(name)), _bits(wanted.column(name))
        if not given_bits.equals(wanted_bits):
            pairs = list(zip(given_bits.to_pylist(), wanted_bits.to_pylist(), strict=True))
            wrong = [row for row, (given_bit, wanted_bit) in enumerate(pairs) if given_bit != wanted_bit]
            fault = wanted.column("fault_id")[wrong[0]] if "fault_id" in wanted.column_names else "?"
            return f"{name} is another in {len(wrong)} of {len(pairs)} rows, first of fault {fault}"
    return None


def _bits(column: pa.ChunkedArray) -> pa.Array:
    """The same values where the same bits: words for floats, as NaN is not NaN, and text for its codes."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if pa.types.is_dictionary(array.type):
        return array.cast(pa.string())
    if pa.types.is_floating(array.type):
        return array.view(pa.int32() if array.type == pa.float32() else pa.int64())
    if pa.types.is_list(array.type):
        values = pa.chunked_array([array.flatten()])
        lengths = array.value_lengths().fill_null(0).to_numpy()
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), _bits(values), mask=array.is_null())
    return array
