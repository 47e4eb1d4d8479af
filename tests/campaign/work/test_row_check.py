"""Rows that came from elsewhere are held against the plan; whatever is changed in them is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.campaign.execute.worker import Worker, open_worker
from testbed.campaign.files import PLAN, TIERS
from testbed.campaign.folder.images import named_images
from testbed.campaign.plan.unit import Unit
from testbed.campaign.plan.units import units_of
from testbed.campaign.results.arrow import from_stream, to_stream
from testbed.campaign.results.reader import ROW_SCHEMA
from testbed.campaign.work.row_check import difference, planned_rows
from testbed.core.schema import FAULT_COLUMNS, ROW_COLUMNS

OF_THE_PLAN = [*(column.name for column in FAULT_COLUMNS), "image_id"]


@pytest.fixture(scope="module")
def worker(tiny_run: Path) -> Iterator[Worker]:
    found = open_worker(str(tiny_run))
    yield found
    found.close()


@pytest.fixture(scope="module")
def units(tiny_run: Path) -> list[Unit]:
    """One of faults for one inference, one of persistent ones."""
    images = len(named_images(tiny_run / TIERS))
    found = list(units_of(tiny_run / PLAN, PLAN, images, 64, 0))
    return [found[0], next(unit for unit in found if unit.rows > len(unit))]


def changed(rows: bytes, name: str, row: int) -> bytes:
    """Another value in one row, of the same type."""
    table = from_stream(rows)
    column = table.column(name).combine_chunks()
    values = (column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column).to_pylist()
    values[row] = other(values[row], column.type)
    array = pa.array(values, pa.string() if pa.types.is_dictionary(column.type) else column.type)
    made = array.dictionary_encode() if pa.types.is_dictionary(column.type) else array
    return to_stream(table.set_column(table.column_names.index(name), ROW_SCHEMA.field(name), made))


def other(value: Any, kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        return [*(value or [])[:-1], 0.125] if value != [0.125] else [0.25]
    if pa.types.is_dictionary(kind):
        return f"not {value}"
    if pa.types.is_boolean(kind):
        return not value
    return 1 if value is None else (value + 1 if value < 2**31 and value + 1 != value else 0)


def test_what_a_worker_gives_is_what_was_planned(tiny_run: Path, worker: Worker, units: list[Unit]) -> None:
    expect = planned_rows(tiny_run, named_images(tiny_run / TIERS))
    joined = units[0].joined(
        next(unit for unit in units_of(tiny_run / PLAN, PLAN, 6, 64, 0) if units[0].precedes(unit))
    )
    for unit in (*units, joined):
        rows = worker.run(unit)
        assert expect(unit, rows) is None
        assert expect(unit, worker.blame(unit, range(len(unit)), "crash")) is None
        assert difference(rows, worker.run(unit)) is None
    assert expect(units[0], worker.run(units[1])) is not None


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_change_of_one_value_is_told(tiny_run: Path, worker: Worker, units: list[Unit], data: st.DataObject) -> None:
    expect = planned_rows(tiny_run, named_images(tiny_run / TIERS))
    unit = data.draw(st.sampled_from(units))
    name = data.draw(st.sampled_from([column.name for column in ROW_COLUMNS]))
    rows = worker.run(unit)
    forged = changed(rows, name, data.draw(st.integers(0, unit.rows - 1)))
    assert (expect(unit, forged) is not None) == (name in OF_THE_PLAN)
    found = difference(forged, rows)
    if name in ("engine_hash", "infrastructure_failure"):  # another version of the engine, a worker that once failed
        assert found is None
    else:
        assert found is not None
        assert found.startswith(f"{name} is another in 1 of {unit.rows} rows, first of fault ")


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_damaged_bytes_are_told_or_change_nothing(
    tiny_run: Path, worker: Worker, units: list[Unit], data: st.DataObject
) -> None:
    """They never get further than that: no exception, and no row that is not right."""
    expect = planned_rows(tiny_run, named_images(tiny_run / TIERS))
    rows = bytearray(worker.run(units[0]))
    whole = bytes(rows)
    for place in data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=3)):
        rows[place] ^= data.draw(st.integers(1, 255))
    expect(units[0], bytes(rows))
    assert difference(bytes(rows), whole) is not None or from_stream(bytes(rows)).num_rows == units[0].rows


def test_nan_is_compared_by_its_bits() -> None:
    def stream(word: int) -> bytes:
        values = np.array([word, 0], np.uint32).view(np.float32)
        return to_stream(pa.table({"fault_id": [7, 8], "value": pa.array(values), "list": pa.array([[1.0], None])}))

    assert difference(stream(0x7FC00000), stream(0x7FC00000)) is None
    assert difference(stream(0x7FC00001), stream(0x7FC00000)) == "value is another in 1 of 2 rows, first of fault 7"
    assert difference(stream(0x80000000), stream(0)) is not None
