"""The log of results: whatever is cut, flipped, reordered or refused by the disk, no row is ever wrong."""

from __future__ import annotations

import errno
import hashlib
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import FileIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.campaign.results import store as store_module
from testbed.campaign.results.arrow import from_stream, join_streams, to_stream
from testbed.campaign.results.store import ResultLog, ResultStore, discard_log
from testbed.core.errors import TestbedError

SCHEMA = pa.schema([("unit", pa.int32()), ("site", pa.dictionary(pa.int32(), pa.string())), ("value", pa.float32())])


@cache
def rows(unit: int, n: int = 3) -> pa.Table:
    values = np.random.default_rng(unit).standard_normal(n).astype(np.float32)
    sites = [f"site {unit % 2}", f"site {unit}", "head"][:n]
    return pa.table({"unit": [unit] * n, "site": sites, "value": values}, schema=SCHEMA)


def filled(folder: Path, units: list[int]) -> None:
    with ResultStore(folder, "plan") as store:
        for unit in units:
            store.append(unit, rows(unit))


def cut_segment(folder: Path) -> Path:
    (found,) = folder.glob("segment-*.log")
    return found


def rewritten(file: Path, content: bytes | bytearray) -> None:
    file.unlink()  # file systems are slow to truncate and write in place
    file.write_bytes(content)


def frame_ends(folder: Path, units: list[int]) -> list[int]:
    """Where each frame ends, from the log's own growth."""
    ends = []
    with ResultStore(folder, "plan") as store:
        for unit in units:
            store.append(unit, rows(unit))
            ends.append(cut_segment(folder).stat().st_size)
    return ends


def assert_holds(folder: Path, units: list[int]) -> None:
    with ResultStore(folder, "plan") as store:
        assert list(store) == units
        for unit in units:
            assert store.read(unit).equals(rows(unit))


def test_what_was_appended_is_there_after_reopening_and_more_can_be_added(tmp_path: Path) -> None:
    filled(tmp_path, [0, 1])
    filled(tmp_path, [2])
    assert_holds(tmp_path, [0, 1, 2])


def test_cut_at_every_byte_only_the_cut_frame_is_lost(tmp_path: Path) -> None:
    units = [0, 1, 2]
    ends, log = frame_ends(tmp_path, units), cut_segment(tmp_path)
    whole = log.read_bytes()
    for length in range(len(whole)):
        rewritten(log, whole[:length])
        kept = sum(end <= length for end in ends)
        assert_holds(tmp_path, units[:kept])
        assert log.stat().st_size == ([0, *ends][kept])  # the next frame must follow a whole one


def test_a_flipped_byte_never_gives_a_wrong_row(tmp_path: Path) -> None:
    units = [0, 1, 2]
    ends, log = frame_ends(tmp_path, units), cut_segment(tmp_path)
    whole = log.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= (0x01, 0x80, 0xFF)[place % 3]
        rewritten(log, damaged)
        assert_holds(tmp_path, units[: sum(end <= place for end in ends)])


@pytest.mark.parametrize("size", [0, 2**31, 2**62, 2**64 - 1])
def test_a_frame_of_any_claimed_size_is_seen_through(tmp_path: Path, size: int) -> None:
    filled(tmp_path, [0])
    end = cut_segment(tmp_path).stat().st_size
    with open(cut_segment(tmp_path), "ab") as file:
        file.write(b"TBF1" + (1).to_bytes(4, "little") + size.to_bytes(8, "little") + bytes(32))
    assert_holds(tmp_path, [0])
    assert cut_segment(tmp_path).stat().st_size == end


def test_units_lost_to_a_cut_can_be_appended_again(tmp_path: Path) -> None:
    filled(tmp_path, [0, 1])
    cut_segment(tmp_path).write_bytes(cut_segment(tmp_path).read_bytes()[:-1])
    filled(tmp_path, [1, 2])
    assert_holds(tmp_path, [0, 1, 2])


@settings(max_examples=20)
@given(st.permutations(range(6)), st.integers(0, 6))
def test_the_compacted_table_is_in_unit_order_whatever_the_order_of_work(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], restart: int
) -> None:
    folder = tmp_path_factory.mktemp("store")
    filled(folder, order[:restart])
    filled(folder, order[restart:])
    with ResultStore(folder, "plan") as store:
        assert store.compact(folder / "rows.parquet", range(6), SCHEMA) == 18
    wanted = pa.concat_tables(map(rows, range(6))).to_pylist()
    assert pq.read_table(folder / "rows.parquet").to_pylist() == wanted


def test_a_log_of_many_segments_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "SEGMENT_BYTES", 1)
    filled(tmp_path, list(range(5)))
    assert len(list(tmp_path.glob("segment-*.log"))) == 5
    assert_holds(tmp_path, list(range(5)))


def test_another_plans_log_is_refused_and_kept(tmp_path: Path) -> None:
    filled(tmp_path, [0])
    owner = (tmp_path / "plan").read_bytes()
    (tmp_path / "plan").write_text("0" * 64)
    with pytest.raises(
        TestbedError, match=r"results of another plan; rerun with `testbed campaign run SPEC --redo plan`"
    ):
        ResultStore(tmp_path, "another")
    (tmp_path / "plan").write_bytes(owner)
    assert_holds(tmp_path, [0])


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe\x00", b"0" * 63, b"plan\n", b"\0" * 64, None])
def test_a_log_whose_owner_is_damaged_is_refused_and_can_be_discarded(tmp_path: Path, damage: bytes | None) -> None:
    filled(tmp_path / "store", [0])
    owner = tmp_path / "store" / "plan"
    owner.unlink()
    owner.mkdir() if damage is None else owner.write_bytes(damage)
    with pytest.raises(
        TestbedError, match=r"store/plan is damaged: .*; rerun with `testbed campaign run SPEC --redo execute`$"
    ):
        ResultStore(tmp_path / "store", "a" * 64)
    discard_log(tmp_path / "store")
    filled(tmp_path / "store", [0])
    assert_holds(tmp_path / "store", [0])


def test_a_file_that_is_no_segment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "segment-last.log").write_text("mine")
    filled(tmp_path, [0])
    assert_holds(tmp_path, [0])


def test_damage_in_the_middle_costs_that_segments_later_units_and_no_other_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "SEGMENT_BYTES", 3_000)
    filled(tmp_path, list(range(8)))
    _, second, *_ = sorted(tmp_path.glob("segment-*.log"))
    inside = [unit for unit in range(8) if ResultLog(tmp_path)._frames[unit][0] == second]
    assert len(inside) > 1
    content = bytearray(second.read_bytes())
    content[100] ^= 1
    rewritten(second, content)
    lost = set(inside)
    assert_holds(tmp_path, [unit for unit in range(8) if unit not in lost])
    filled(tmp_path, sorted(lost))
    with ResultStore(tmp_path, "plan") as store:
        assert all(store.read(unit).equals(rows(unit)) for unit in range(8))


def test_a_segment_that_was_lost_is_not_mistaken_for_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "SEGMENT_BYTES", 1)
    filled(tmp_path, [0, 1, 2])
    (tmp_path / "segment-00001.log").unlink()
    filled(tmp_path, [1])
    assert_holds(tmp_path, [0, 2, 1])


# ---- several units in one frame


def several(units: range) -> pa.Table:
    return pa.concat_tables(map(rows, units)).unify_dictionaries().combine_chunks()


def test_a_frame_of_several_units_has_them_all_or_none(tmp_path: Path) -> None:
    spans = [range(3), range(3, 4), range(4, 6)]
    ends = []
    with ResultStore(tmp_path, "plan") as store:
        for span in spans:
            store.append(span.start, several(span), len(span))
            ends.append(cut_segment(tmp_path).stat().st_size)
    whole = cut_segment(tmp_path).read_bytes()
    for length in range(len(whole) + 1):
        rewritten(cut_segment(tmp_path), whole[:length])
        held = [span for span, end in zip(spans, ends, strict=True) if end <= length]
        log = ResultLog(tmp_path)
        assert list(log) == [unit for span in held for unit in span]
        assert [frame.units for frame in log.frames(log)] == held
        assert all(log.read(span.start).equals(several(span)) for span in held)
    with ResultStore(tmp_path, "plan") as store:
        assert store.compact(tmp_path / "rows.parquet", range(6), SCHEMA) == 18
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
    end = cut_segment(tmp_path).stat().st_size
    header = b"TBF2" + (1).to_bytes(4, "little") + len(payload).to_bytes(8, "little")
    with open(cut_segment(tmp_path), "ab") as file:
        file.write(header + hashlib.sha256((1).to_bytes(4, "little") + payload).digest() + payload)
    assert_holds(tmp_path, [0])
    assert cut_segment(tmp_path).stat().st_size == end


# ---- rows that are taken out again


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
    filled(tmp_path, [0, 1])
    end = cut_segment(tmp_path).stat().st_size
    with ResultStore(tmp_path, "plan") as store:
        store._file = FileIO(cut_segment(tmp_path), "r+")  # the segment that there is
        store.drop(range(1))
    whole = cut_segment(tmp_path).read_bytes()
    for length in range(end, len(whole)):
        rewritten(cut_segment(tmp_path), whole[:length])
        assert list(ResultLog(tmp_path)) == [0, 1]
    rewritten(cut_segment(tmp_path), whole)
    assert_holds(tmp_path, [1])


# ---- looking into a log that somebody writes


def test_looking_changes_nothing_and_sees_what_is_whole(tmp_path: Path) -> None:
    units = [0, 1, 2]
    ends, log = frame_ends(tmp_path, units), cut_segment(tmp_path)
    whole = log.read_bytes()
    for length in range(0, len(whole), 7):
        rewritten(log, whole[:length])
        seen = ResultLog(tmp_path)
        assert list(seen) == units[: sum(end <= length for end in ends)]
        assert all(seen.read(unit).equals(rows(unit)) for unit in seen)
        assert log.read_bytes() == whole[:length]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["plan", log.name]


def test_looking_where_there_is_nothing(tmp_path: Path) -> None:
    assert list(ResultLog(tmp_path / "none")) == []
    assert list(tmp_path.iterdir()) == []


def test_streams_are_kept_as_they_came(tmp_path: Path) -> None:
    stream = to_stream(rows(0))
    with ResultStore(tmp_path, "plan") as store:
        store.append(0, stream)
        assert store.stream(0) == stream
    assert_holds(tmp_path, [0])


def test_pieces_of_a_unit_are_joined_in_order() -> None:
    joined = from_stream(join_streams([to_stream(rows(unit)) for unit in (0, 3, 1)]))
    assert joined.to_pylist() == pa.concat_tables([rows(0), rows(3), rows(1)]).to_pylist()
    assert from_stream(to_stream(rows(0)), columns=["value", "nothing"]).equals(rows(0).select(["value"]))


@pytest.mark.parametrize("debris", [[], ["plan"], [".plan.abc.unfinished"]])
def test_a_log_whose_making_was_killed_is_made_again(tmp_path: Path, debris: list[str]) -> None:
    for name in debris:
        (tmp_path / name).write_text("plan" if name == "plan" else "pl")
    filled(tmp_path, [0])
    assert_holds(tmp_path, [0])


def test_the_name_of_its_plan_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with limited(0), pytest.raises(TestbedError, match="cannot write"):
        ResultStore(tmp_path / "store", "plan")
    filled(tmp_path / "store", [0])
    assert_holds(tmp_path / "store", [0])


def test_discarding_leaves_nothing(tmp_path: Path) -> None:
    filled(tmp_path / "store", [0, 1])
    (tmp_path / "store" / ".plan.abc.unfinished").write_text("")
    discard_log(tmp_path / "store")
    discard_log(tmp_path / "store")  # none there is none to remove
    assert list(tmp_path.iterdir()) == []


# ---- disks that take no more


@contextmanager
def limited(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes: the system itself writes a part and refuses the rest."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_frame_the_disk_takes_half_of_is_taken_back(tmp_path: Path) -> None:
    with ResultStore(tmp_path, "plan") as store:
        store.append(0, rows(0))
        end = cut_segment(tmp_path).stat().st_size
        with limited(end + 100), pytest.raises(TestbedError, match=f"cannot write {tmp_path}: ") as caught:
            store.append(1, rows(1))
        assert "\n" not in str(caught.value)
        assert 1 not in store
        assert cut_segment(tmp_path).stat().st_size == end
        store.append(1, rows(1))  # space was made
    assert_holds(tmp_path, [0, 1])


def test_ctrl_c_in_the_middle_of_a_frame_leaves_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(FileIO):
        def write(self, content: bytes) -> int:  # type: ignore[override]
            super().write(content[: len(content) // 2])
            raise KeyboardInterrupt

    with ResultStore(tmp_path, "plan") as store:
        with monkeypatch.context() as broken:
            broken.setattr(store_module, "FileIO", Interrupted)
            with pytest.raises(KeyboardInterrupt):
                store.append(0, rows(0))
        store.append(1, rows(1))
        store.append(0, rows(0))
    assert_holds(tmp_path, [1, 0])


@pytest.mark.parametrize("also_truncate", [False, True])
def test_a_full_disk_is_told_in_one_line_and_the_log_stays_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, also_truncate: bool
) -> None:
    class Full(FileIO):
        def write(self, content: bytes) -> int:  # type: ignore[override]
            if self.tell() == 0:
                return super().write(content)
            super().write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

        def truncate(self, size: int | None = None) -> int:
            if also_truncate:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().truncate(size)

    with monkeypatch.context() as broken:
        broken.setattr(store_module, "FileIO", Full)
        with ResultStore(tmp_path, "plan") as store:
            store.append(0, rows(0))
            with pytest.raises(TestbedError, match=f"cannot write {tmp_path}: the disk is full; free some space"):
                store.append(1, rows(1))
            assert store.read(0).equals(rows(0))
    filled(tmp_path, [1])
    assert_holds(tmp_path, [0, 1])


def test_a_table_that_does_not_fit_leaves_the_log(tmp_path: Path) -> None:
    filled(tmp_path / "store", [0, 1])
    with (
        ResultStore(tmp_path / "store", "plan") as store,
        limited(100),
        pytest.raises(TestbedError, match="cannot write"),
    ):
        store.compact(tmp_path / "rows.parquet", range(2), SCHEMA)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["store"]
    assert_holds(tmp_path / "store", [0, 1])
