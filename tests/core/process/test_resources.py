"""What a machine can give: estimates are held against its own limits."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from testbed.core.errors import UsageError
from testbed.core.process import resources
from testbed.core.process.resources import available_bytes, format_bytes, require_memory, require_threads


def test_no_more_is_free_than_the_machine_says() -> None:
    assert 0 < available_bytes() <= psutil.virtual_memory().total


def test_too_much_is_refused_by_name() -> None:
    require_memory(1000, "a thousand bytes", "take fewer")
    with pytest.raises(
        UsageError, match=r"^engine.batch = 9 needs 909.5 TiB of memory, of which .* free; set a smaller"
    ):
        require_memory(1e15, "engine.batch = 9", "set a smaller one")


def test_a_process_knows_its_own_limit() -> None:
    code = "from testbed.core.process.resources import available_bytes; print(available_bytes())"
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31)); {code}"
    found = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, check=True, timeout=60)
    assert 0 < int(found.stdout) < 2**31


def test_a_container_has_its_own_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("max", "1000000"), ("current", "900000"), ("stat", "anon 500000\nfile 400000\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(resources, "CONTROL_GROUP", tmp_path)
    assert available_bytes() == 500_000  # its cached files go when memory is asked for
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes() > 1_000_000


def test_threads_go_by_the_cores() -> None:
    require_threads(128)
    with pytest.raises(UsageError, match=f"this machine has {os.cpu_count()} cores"):
        require_threads(10**6)


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, "0 bytes"), (1000, "1000 bytes"), (1536, "1.5 KiB"), (2**30, "1.0 GiB"), (2**60, "1024.0 PiB")],
)
def test_bytes_are_told_for_people(count: int, told: str) -> None:
    assert format_bytes(count) == told


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps what is freed, and can be asked for it")
def test_freed_memory_goes_back_to_the_system_where_much_was_used() -> None:
    """Blocks of 100 kB below one that stays: glibc has them, and this process is no smaller for it."""
    code = """
import ctypes, psutil
from testbed.core.process.resources import release_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
held = lambda: psutil.Process().memory_info().rss >> 20
blocks = [libc.malloc(100_000) for _ in range(1000)]
for block in blocks:
    ctypes.memset(block, 1, 100_000)
for block in blocks[:-1]:
    libc.free(block)
freed = held()
release_memory(1000)
small = held()
release_memory(10**9)
print(freed - small, freed - held())
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    by_little, by_much = map(int, told.split())
    assert by_little < 10
    assert by_much > 80
