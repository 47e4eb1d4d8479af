"""A disk that is really full, or really read-only: one line each, and with space the campaign goes on to the same rows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.campaigns import TINY
from tests.support.victims import assert_same_rows

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 600 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def remounted(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def campaign(run: Path) -> tuple[int, str]:
    """Exit status and the last line on stderr."""
    command = [sys.executable, "-m", "testbed", "campaign", "run", str(TINY), "--run", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.strip().splitlines()[-1]


def test_a_full_and_then_a_read_only_disk(disk: Path, tiny_run: Path, cache_dir: Path) -> None:
    code, told = campaign(disk / "run")
    assert (code, "the disk is full; free some space and run the same command again" in told) == (1, True), told
    remounted(disk, "size=20m")
    assert campaign(disk / "run")[0] == 0
    assert_same_rows(disk / "run", tiny_run)
    remounted(disk, "ro")
    for name in ("run", "another"):
        code, told = campaign(disk / name)
        assert (code, "the file system is read-only; choose another folder" in told) == (1, True), told
