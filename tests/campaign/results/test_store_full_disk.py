"""The log of results on a disk that takes no more: a frame is whole or not there, and the log stays readable."""

from __future__ import annotations

import errno
from io import FileIO
from pathlib import Path

import pytest

from testbed.campaign.results import store as store_module
from testbed.campaign.results.store import ResultStore
from testbed.core.errors import TestbedError
from tests.support.disks import disk_of
from tests.support.result_logs import assert_holds, filled, only_segment, rows


def test_the_name_of_its_plan_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with disk_of(0), pytest.raises(TestbedError, match="cannot write"):
        ResultStore(tmp_path / "store", "plan")
    filled(tmp_path / "store", [0])
    assert_holds(tmp_path / "store", [0])


def test_a_frame_the_disk_takes_half_of_is_taken_back(tmp_path: Path) -> None:
    with ResultStore(tmp_path, "plan") as store:
        store.append(0, rows(0))
        end = only_segment(tmp_path).stat().st_size
        with disk_of(end + 100), pytest.raises(TestbedError, match=f"cannot write {tmp_path}: ") as caught:
            store.append(1, rows(1))
        assert "\n" not in str(caught.value)
        assert 1 not in store
        assert only_segment(tmp_path).stat().st_size == end
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
