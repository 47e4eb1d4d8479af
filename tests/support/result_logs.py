"""Logs of results with rows that are known, and what is in their files."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from testbed.campaign.results.compaction import Compaction
from testbed.campaign.results.store import ResultStore

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


def only_segment(folder: Path) -> Path:
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
            ends.append(only_segment(folder).stat().st_size)
    return ends


def assert_holds(folder: Path, units: list[int]) -> None:
    with ResultStore(folder, "plan") as store:
        assert list(store) == units
        for unit in units:
            assert store.read(unit).equals(rows(unit))


def compacted(folder: Path, units: int, path: Path) -> int:
    """Writes the log as one table at once; returns the number of rows."""
    with ResultStore(folder, "plan") as store, Compaction(store, path, SCHEMA) as compaction:
        return compaction.finish(units)
