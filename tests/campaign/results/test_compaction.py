"""A log as one table: in unit order, and the same file whether it was written ahead or at the end, whatever came between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.campaign.results import compaction as compaction_module
from testbed.campaign.results.compaction import Compaction
from testbed.campaign.results.store import ResultStore
from testbed.core.errors import TestbedError
from tests.support.disks import disk_of
from tests.support.result_logs import SCHEMA, assert_holds, compacted, filled, rows

UNITS = 8


@contextmanager
def row_groups_of(n: int) -> Iterator[None]:
    """Row groups are full with so many rows."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(compaction_module, "GROUP_ROWS", n)
        yield


def span(units: range, times: int) -> pa.Table:
    """Rows of these units when they are run for the n-th time."""
    numbers = [pa.array([unit] * 3, pa.int32()) for unit in units]
    values = [rows(unit + UNITS * times) for unit in units]
    of_units = [table.set_column(0, "unit", number) for table, number in zip(values, numbers, strict=True)]
    return pa.concat_tables(of_units).unify_dictionaries().combine_chunks()


def unfinished(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if "unfinished" in file.name]


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[list[range]], list[int]]:
    """Spans of units in the order in which they are kept, of each process; and after how many some are dropped."""
    cuts = sorted(draw(st.sets(st.integers(1, UNITS - 1))))
    spans = draw(st.permutations([range(*ends) for ends in zip([0, *cuts], [*cuts, UNITS], strict=True)]))
    restarts = sorted(draw(st.lists(st.integers(0, len(spans)), max_size=2)))
    starts = [0, *restarts]
    processes = [spans[start:stop] for start, stop in zip(starts, [*restarts, len(spans)], strict=True)]
    return processes, draw(st.lists(st.integers(1, 3 * UNITS), max_size=3))


@settings(max_examples=60, deadline=None)
@given(histories(), st.integers(1, 12))
def test_the_table_is_in_unit_order_and_byte_for_byte_the_one_that_is_written_at_the_end(
    tmp_path_factory: pytest.TempPathFactory, history: tuple[list[list[range]], list[int]], group: int
) -> None:
    """Also where frames are dropped and their units run again, cut otherwise, and where a new process goes on."""
    processes, drops = history
    folder, held, kept = tmp_path_factory.mktemp("store"), dict[int, pa.Table](), 0
    with row_groups_of(group):
        for number, spans in enumerate(processes):
            waiting = list(spans)
            with (
                ResultStore(folder / "store", "plan") as store,
                Compaction(store, folder / "ahead.parquet", SCHEMA) as compaction,
            ):
                while waiting:
                    units = waiting.pop(0)
                    store.append(units.start, span(units, kept), len(units))
                    held |= {unit: span(range(unit, unit + 1), kept) for unit in units}
                    compaction.advance()
                    kept += 1
                    if kept in drops:
                        frame = next(store.frames(sorted(store)))
                        store.drop(frame.units)
                        waiting += [range(unit, unit + 1) for unit in frame.units]
                if number == len(processes) - 1:
                    assert compaction.finish(UNITS) == 3 * UNITS
        compacted(folder / "store", UNITS, folder / "end.parquet")
    assert (folder / "ahead.parquet").read_bytes() == (folder / "end.parquet").read_bytes()
    wanted = pa.concat_tables([held[unit] for unit in range(UNITS)])
    assert pq.read_table(folder / "ahead.parquet").to_pylist() == wanted.to_pylist()
    assert unfinished(folder) == []


def test_a_row_group_is_written_once_its_rows_are_there_and_the_table_seen_when_all_are(tmp_path: Path) -> None:
    with (
        row_groups_of(6),
        ResultStore(tmp_path / "store", "plan") as store,
        Compaction(store, tmp_path / "rows.parquet", SCHEMA) as compaction,
    ):
        begun = []
        for unit in (1, 2, 0, 3, 4):
            store.append(unit, rows(unit))
            compaction.advance()
            begun.append(len(unfinished(tmp_path)))
        assert begun == [0, 0, 1, 1, 1]
        assert not (tmp_path / "rows.parquet").exists()
        compaction.finish(5)
    file = pq.ParquetFile(tmp_path / "rows.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [6, 6, 3]


def test_frames_of_few_rows_are_joined_too_but_not_for_ever(tmp_path: Path) -> None:
    filled(tmp_path / "store", list(range(150)))
    compacted(tmp_path / "store", 150, tmp_path / "rows.parquet")
    file = pq.ParquetFile(tmp_path / "rows.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [192, 192, 66]


def test_columns_that_are_known_only_now_are_added_and_those_of_newer_versions_are_null(tmp_path: Path) -> None:
    filled(tmp_path / "store", [0, 1])
    schema = SCHEMA.append(pa.field("weight", pa.float64())).append(pa.field("recovered", pa.bool_()))

    def weighed(table: pa.Table) -> pa.Table:
        return table.append_column("weight", pa.array([2.5] * table.num_rows))

    with (
        ResultStore(tmp_path / "store", "plan") as store,
        Compaction(store, tmp_path / "rows.parquet", schema, weighed) as compaction,
    ):
        assert compaction.finish(2) == 6
    table = pq.read_table(tmp_path / "rows.parquet")
    assert table.column_names == schema.names
    assert table.column("weight").to_pylist() == [2.5] * 6
    assert table.column("recovered").null_count == 6


def test_a_unit_that_is_not_there_is_told_and_leaves_no_table(tmp_path: Path) -> None:
    filled(tmp_path / "store", [0, 2])
    with row_groups_of(1), pytest.raises(KeyError):
        compacted(tmp_path / "store", 3, tmp_path / "rows.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["store"]


def test_a_table_that_does_not_fit_leaves_the_log(tmp_path: Path) -> None:
    filled(tmp_path / "store", [0, 1])
    with disk_of(100), pytest.raises(TestbedError, match=f"cannot write {tmp_path / 'rows.parquet'}: ") as caught:
        compacted(tmp_path / "store", 2, tmp_path / "rows.parquet")
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["store"]
    assert_holds(tmp_path / "store", [0, 1])


@pytest.mark.parametrize("space", [True, False])
def test_a_disk_that_is_full_ahead_of_the_end_matters_only_if_it_is_full_then(tmp_path: Path, space: bool) -> None:
    filled(tmp_path / "store", list(range(UNITS)))
    with (
        row_groups_of(6),
        ResultStore(tmp_path / "store", "plan") as store,
        Compaction(store, tmp_path / "ahead.parquet", SCHEMA) as compaction,
    ):
        compaction.advance()
        with disk_of(100):
            compaction.advance()
            assert unfinished(tmp_path) == []  # there is a little more space for the log
            if not space:
                with pytest.raises(TestbedError, match=f"cannot write {tmp_path / 'ahead.parquet'}: "):
                    compaction.finish(UNITS)
                return
        compaction.advance()
        assert unfinished(tmp_path) == []
        compaction.finish(UNITS)
        compacted(tmp_path / "store", UNITS, tmp_path / "end.parquet")
    assert (tmp_path / "ahead.parquet").read_bytes() == (tmp_path / "end.parquet").read_bytes()


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_table_that_is_given_up_leaves_nothing_behind(tmp_path: Path, interrupted: bool) -> None:
    filled(tmp_path / "store", list(range(UNITS)))
    begun: list[list[str]] = []

    def finished(table: pa.Table) -> pa.Table:
        begun.append(unfinished(tmp_path))
        if len(begun) == 3 and interrupted:
            raise KeyboardInterrupt
        return table

    with (
        row_groups_of(6),
        ResultStore(tmp_path / "store", "plan") as store,
        Compaction(store, tmp_path / "rows.parquet", SCHEMA, finished) as compaction,
    ):
        compaction.advance()
        compaction.advance()
        if interrupted:
            with pytest.raises(KeyboardInterrupt):
                compaction.advance()
            assert unfinished(tmp_path) == []
            compaction.advance()  # units that were finished are still kept
    assert begun[1]
    assert [file.name for file in tmp_path.iterdir()] == ["store"]


def test_what_cannot_be_added_to_rows_is_told_at_the_end(tmp_path: Path) -> None:
    filled(tmp_path / "store", list(range(UNITS)))

    def finished(table: pa.Table) -> pa.Table:
        raise TestbedError("the plan is damaged")

    with (
        row_groups_of(6),
        ResultStore(tmp_path / "store", "plan") as store,
        Compaction(store, tmp_path / "rows.parquet", SCHEMA, finished) as compaction,
    ):
        compaction.advance()
        with pytest.raises(TestbedError, match=r"^the plan is damaged$"):
            compaction.finish(UNITS)
    assert [file.name for file in tmp_path.iterdir()] == ["store"]
