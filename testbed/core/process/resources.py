"""What this machine can give: memory is estimated before it is taken, and what cannot fit is refused by name."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from testbed.core.errors import UsageError

CONTROL_GROUP = Path("/sys/fs/cgroup")
_THREADS = 128  # that may be asked for on however small a machine: a campaign keeps those it was begun with
_WORTH_RELEASING = 1 << 27
_SHARE = 0.9  # of what is free: the rest is the interpreter's and the estimate's error


def require_memory(wanted: float, what: str, fix: str) -> None:
    """Raises UsageError where ``what`` ("engine.batch = 65536") needs more bytes than this process can get.

    wanted: bytes, estimated from below: what is refused would surely fail. fix: what to do, as an imperative.
    """
    free = available_bytes()
    if wanted > _SHARE * free:
        raise UsageError(
            f"{what} needs {format_bytes(wanted)} of memory, of which {format_bytes(free)} are free; {fix}"
        )


def require_threads(count: int, what: str = "threads") -> None:
    """Raises UsageError for more threads than any work of this machine is faster with, which its engines would all start."""
    cores = os.cpu_count() or 1
    most = max(_THREADS, 8 * cores)
    if count > most:
        raise UsageError(f"{what} = {count}: this machine has {cores} cores; ask for at most {most}")


def available_bytes() -> int:
    """What this process can still take: of the machine, of its control group (a container), and of its own limit."""
    import psutil

    limits = [int(psutil.virtual_memory().available)]
    if (group := _left_of_group(CONTROL_GROUP)) is not None:
        limits.append(group)
    if sys.platform != "win32":
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            limits.append(limit - int(psutil.Process().memory_info().vms))
    return max(0, min(limits))


def _left_of_group(folder: Path) -> int | None:
    """Bytes left of a control group's limit (version 2, as containers mount it); None where there is none."""
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        cached = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines()).get("file", "0")
        return None if limit == "max" else int(limit) - int(used) + int(cached)
    except (OSError, ValueError):
        return None


def format_bytes(count: float) -> str:
    """A size for people: "37.3 GiB"."""
    units = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
    power = min((max(int(count), 1).bit_length() - 1) // 10, len(units) - 1)
    return f"{count:.0f} bytes" if not power else f"{count / 1024**power:.1f} {units[power]}"


def release_memory(used: int) -> None:
    """Gives memory that was freed back to the system, where as much as a large model was in use. used: bytes.

    glibc keeps what it frees in the middle of its heap: a model's weights, taken several times over while an engine is
    opened, stay the process's. Does nothing with other libraries.
    """
    if used >= _WORTH_RELEASING and (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
        return trim
    except (OSError, TypeError, AttributeError):
        return None
