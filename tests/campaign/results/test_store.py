"""The log of results: whatever is cut, flipped or reordered, no row is ever wrong."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from testbed.campaign.results import store as store_module
from testbed.campaign.results.arrow import from_stream, join_streams, to_stream
from testbed.campaign.results.store import ResultLog, ResultStore, discard_log
from testbed.core.errors import TestbedError
from tests.support.result_logs import assert_holds, filled, frame_ends, only_segment, rewritten, rows


def test_what_was_appended_is_there_after_reopening_and_more_can_be_added(tmp_path: Path) -> None:
    filled(tmp_path, [0, 1])
    filled(tmp_path, [2])
    assert_holds(tmp_path, [0, 1, 2])


def test_cut_at_every_byte_only_the_cut_frame_is_lost(tmp_path: Path) -> None:
    units = [0, 1, 2]
    ends, log = frame_ends(tmp_path, units), only_segment(tmp_path)
    whole = log.read_bytes()
    for length in range(len(whole)):
        rewritten(log, whole[:length])
        kept = sum(end <= length for end in ends)
        assert_holds(tmp_path, units[:kept])
        assert log.stat().st_size == ([0, *ends][kept])  # the next frame must follow a whole one


def test_a_flipped_byte_never_gives_a_wrong_row(tmp_path: Path) -> None:
    units = [0, 1, 2]
    ends, log = frame_ends(tmp_path, units), only_segment(tmp_path)
    whole = log.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= (0x01, 0x80, 0xFF)[place % 3]
        rewritten(log, damaged)
        assert_holds(tmp_path, units[: sum(end <= place for end in ends)])


@pytest.mark.parametrize("size", [0, 2**31, 2**62, 2**64 - 1])
def test_a_frame_of_any_claimed_size_is_seen_through(tmp_path: Path, size: int) -> None:
    filled(tmp_path, [0])
    end = only_segment(tmp_path).stat().st_size
    with open(only_segment(tmp_path), "ab") as file:
        file.write(b"TBF1" + (1).to_bytes(4, "little") + size.to_bytes(8, "little") + bytes(32))
    assert_holds(tmp_path, [0])
    assert only_segment(tmp_path).stat().st_size == end


def test_units_lost_to_a_cut_can_be_appended_again(tmp_path: Path) -> None:
    filled(tmp_path, [0, 1])
    only_segment(tmp_path).write_bytes(only_segment(tmp_path).read_bytes()[:-1])
    filled(tmp_path, [1, 2])
    assert_holds(tmp_path, [0, 1, 2])


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
    content = bytearray(second.read_bytes())
    second.unlink()
    inside = set(range(8)) - set(ResultLog(tmp_path))
    assert len(inside) > 1
    content[100] ^= 1
    second.write_bytes(content)
    assert_holds(tmp_path, [unit for unit in range(8) if unit not in inside])
    filled(tmp_path, sorted(inside))
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


def test_looking_changes_nothing_and_sees_what_is_whole(tmp_path: Path) -> None:
    units = [0, 1, 2]
    ends, log = frame_ends(tmp_path, units), only_segment(tmp_path)
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


def test_parts_of_a_unit_are_joined_in_order() -> None:
    joined = from_stream(join_streams([to_stream(rows(unit)) for unit in (0, 3, 1)]))
    assert joined.to_pylist() == pa.concat_tables([rows(0), rows(3), rows(1)]).to_pylist()
    assert from_stream(to_stream(rows(0)), columns=["value", "nothing"]).equals(rows(0).select(["value"]))


@pytest.mark.parametrize("debris", [[], ["plan"], [".plan.abc.unfinished"]])
def test_a_log_whose_making_was_killed_is_made_again(tmp_path: Path, debris: list[str]) -> None:
    for name in debris:
        (tmp_path / name).write_text("plan" if name == "plan" else "pl")
    filled(tmp_path, [0])
    assert_holds(tmp_path, [0])


def test_discarding_leaves_nothing(tmp_path: Path) -> None:
    filled(tmp_path / "store", [0, 1])
    (tmp_path / "store" / ".plan.abc.unfinished").write_text("")
    discard_log(tmp_path / "store")
    discard_log(tmp_path / "store")  # none there is none to remove
    assert list(tmp_path.iterdir()) == []
