"""Frames of several units in the log of results, and frames that take rows out again."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from testbed.campaign.results.store import ResultLog, ResultStore
from tests.support.result_logs import assert_holds, compacted, filled, only_segment, rewritten, rows


def several(units: range) -> pa.Table:
    return pa.concat_tables(map(rows, units)).unify_dictionaries().combine_chunks()


def test_a_frame_of_several_units_has_them_all_or_none(tmp_path: Path) -> None:
    spans = [range(3), range(3, 4), range(4, 6)]
    ends = []
    with ResultStore(tmp_path, "plan") as store:
        for span in spans:
            store.append(span.start, several(span), len(span))
            ends.append(only_segment(tmp_path).stat().st_size)
    whole = only_segment(tmp_path).read_bytes()
    for length in range(len(whole) + 1):
        rewritten(only_segment(tmp_path), whole[:length])
        held = [span for span, end in zip(spans, ends, strict=True) if end <= length]
        log = ResultLog(tmp_path)
        assert list(log) == [unit for span in held for unit in span]
        assert [frame.units for frame in log.frames(log)] == held
        assert all(log.read(span.start).equals(several(span)) for span in held)
    assert compacted(tmp_path, 6, tmp_path / "rows.parquet") == 18
    wanted = pa.concat_tables(map(rows, range(6))).to_pylist()
    assert pq.read_table(tmp_path / "rows.parquet").to_pylist() == wanted


def test_a_frame_with_a_unit_of_another_frame_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    """As where a damaged segment is put back after its units were run again, joined otherwise."""
    filled(tmp_path, [2])
    with ResultStore(tmp_path, "plan") as store:
        store.append(1, several(range(1, 4)), 3)
        store.append(3, rows(3))
    assert_holds(tmp_path, [2, 3])


@pytest.mark.parametrize("payload", [b"", b"\1\0", bytes(4), b"\xff" * 4])
def test_a_frame_of_no_or_very_many_units_is_no_frame(tmp_path: Path, payload: bytes) -> None:
    filled(tmp_path, [0])
    end = only_segment(tmp_path).stat().st_size
    header = b"TBF2" + (1).to_bytes(4, "little") + len(payload).to_bytes(8, "little")
    with open(only_segment(tmp_path), "ab") as file:
        file.write(header + hashlib.sha256((1).to_bytes(4, "little") + payload).digest() + payload)
    assert_holds(tmp_path, [0])
    assert only_segment(tmp_path).stat().st_size == end


def test_what_was_dropped_is_gone_for_good_and_can_be_appended_again(tmp_path: Path) -> None:
    filled(tmp_path, [0, 1])
    with ResultStore(tmp_path, "plan") as store:
        store.append(2, several(range(2, 5)), 3)
        store.drop(range(1, 2))
        store.drop(range(2, 5))
        assert list(store) == [0]
    assert_holds(tmp_path, [0])
    filled(tmp_path, [3, 2, 1])
    assert_holds(tmp_path, [0, 3, 2, 1])


def test_a_drop_that_was_cut_short_has_not_happened(tmp_path: Path) -> None:
    with ResultStore(tmp_path, "plan") as store:
        for unit in (0, 1):
            store.append(unit, rows(unit))
        end = only_segment(tmp_path).stat().st_size
        store.drop(range(1))
    whole = only_segment(tmp_path).read_bytes()
    for length in range(end, len(whole)):
        rewritten(only_segment(tmp_path), whole[:length])
        assert list(ResultLog(tmp_path)) == [0, 1]
    rewritten(only_segment(tmp_path), whole)
    assert_holds(tmp_path, [1])
