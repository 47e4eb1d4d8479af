"""Whole files or none, and one line that says the fix when the disk does not take them."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from pathlib import Path

import pytest

from testbed.core.errors import TestbedError
from testbed.core.folder.files import atomic_path, sha256_file, sha256_json, write_bytes, write_json, write_text
from tests.support.disks import failing


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_new_file_and_its_folders_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b.txt", "hello")
    assert (tmp_path / "a" / "b.txt").read_text() == "hello"
    assert names(tmp_path / "a") == ["b.txt"]


def test_a_body_that_fails_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("old")

    def half_written() -> None:
        with atomic_path(tmp_path / "kept") as temporary:
            temporary.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half_written()
    assert names(tmp_path) == ["kept"]
    assert (tmp_path / "kept").read_text() == "old"


def test_the_file_is_not_there_until_it_is_whole(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "new") as temporary:
        temporary.write_text("whole")
        assert not (tmp_path / "new").exists()
        assert temporary.parent == tmp_path  # a rename cannot cross file systems
    assert (tmp_path / "new").read_text() == "whole"


def test_the_suffix_is_kept_for_writers_that_look_at_it(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "rows.parquet") as temporary:
        assert temporary.suffix == ".parquet"


def test_permissions_are_the_users_own(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    (tmp_path / "kept").write_text("old")
    with monkeypatch.context() as broken:
        broken.setattr(os, step, failing(errno.ENOSPC))
        with pytest.raises(TestbedError, match=r"cannot write .*kept: the disk is full; free some space") as caught:
            write_text(tmp_path / "kept", "new")
    assert caught.value.exit_code == 1
    assert names(tmp_path) == ["kept"]
    assert (tmp_path / "kept").read_text() == "old"


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EROFS, "the file system is read-only; choose another folder"),
        (errno.EACCES, "no permission to write there; choose another folder"),
        (errno.EDQUOT, "the disk quota is used up"),
    ],
)
def test_a_folder_that_takes_no_files_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, told: str
) -> None:
    monkeypatch.setattr(tempfile, "mkstemp", failing(number))
    with pytest.raises(TestbedError, match=f"cannot write {tmp_path / 'file'}: {told}"):
        write_text(tmp_path / "file", "")


def test_a_path_through_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TestbedError, match="a part of that path is a file"):
        write_text(tmp_path / "file" / "below" / "it", "")


def test_json_never_holds_a_number_that_json_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file", {"rate": float("nan")})
    assert names(tmp_path) == []


def test_a_files_hash_is_its_contents(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert sha256_file(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()


def test_a_values_hash_does_not_depend_on_the_order_of_keys() -> None:
    assert sha256_json({"a": 1, "b": [2, 3]}) == sha256_json({"b": [2, 3], "a": 1})
    assert sha256_json({"a": 1, "b": [2, 3]}) != sha256_json({"a": 1, "b": [3, 2]})
