"""Fingerprints of a finished campaign: what is in its files, as hashes that name what differs.

Only the run folder's public files are read: faults.parquet, faults.points.parquet, results.parquet, summary.json and the
site tables. Nothing that a clock decides is hashed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

CLOCKED = {"seconds", "wall_seconds", "engine_seconds", "worker_seconds", "injections_per_second", "scaling_efficiency"}
"""Keys of the summary, at any depth, that a clock decides."""

OF_THE_IMAGE = ("image_id", "tier")
"""Columns of plan and rows that say which image: their choice follows from the last bits of the model's confidence."""

Fingerprint = dict[str, Any]
"""JSON-ready: nested tables whose leaves are numbers, types and hashes."""


def of_folder(folder: Path, *, adaptive: bool) -> Fingerprint:
    """``exact``: all rows and the summary. ``portable``: the part that no library version or kind of CPU decides."""
    faults, results = pq.read_table(folder / "faults.parquet"), pq.read_table(folder / "results.parquet")
    points = pq.read_table(folder / "faults.points.parquet")
    exact = {
        "faults": of_table(faults, ["fault_id"]),
        "points": of_table(points, []),
        "results": of_table(results, ["fault_id", "image_id"]),
        "summary": of_summary(json.loads((folder / "summary.json").read_text())),
    }
    portable = _portable(folder, faults, points, results, adaptive)
    portable["sites"]["left_out"] = exact["summary"][
        "left_out"
    ]  # weights that this engine does not read where they are
    return {"exact": exact, "portable": portable}


def _portable(folder: Path, faults: pa.Table, points: pa.Table, results: pa.Table, adaptive: bool) -> Fingerprint:
    """The drawn faults, the names and types of all columns, and which rows belong to which fault.

    Of an adaptive campaign only the first round: the later ones follow from the rows.
    """
    if adaptive:
        faults = faults.filter(pc.equal(faults["round"], 0))
        points = points.filter(pc.is_in(points["fault_id"], value_set=faults["fault_id"].combine_chunks()))
        results = results.filter(pc.is_in(results["fault_id"], value_set=faults["fault_id"].combine_chunks()))
    shared = [name for name in results.column_names if name in faults.column_names and name not in OF_THE_IMAGE]
    return {
        "sites": {file.name: _sites(file) for file in sorted(folder.glob("*.sites.json"))},
        "faults": of_table(faults.drop_columns("image_id"), ["fault_id"]),
        "points": of_table(points, []),
        "results": of_table(results.select(shared), ["fault_id"]),
        "columns": {field.name: str(field.type) for field in results.schema},
    }


def _sites(file: Path) -> str:
    """Names and shapes alone: where the tensors are in the file is the exporter's choice."""
    table = json.loads(file.read_text())
    return _hash(json.dumps([[site["name"], site["where"], site["shape"]] for site in table["sites"]]).encode())


def of_table(table: pa.Table, keys: list[str]) -> Fingerprint:
    """Number of rows, and a hash per column of its type, its nulls and every bit of its values, in the order of ``keys``."""
    if keys:
        named = pa.table({key: _plain(table[key]) for key in keys})
        table = table.take(pc.sort_indices(named, sort_keys=[(key, "ascending") for key in keys]))
    return {"rows": table.num_rows, "columns": {name: of_column(table[name]) for name in table.column_names}}


def of_column(column: pa.ChunkedArray) -> str:
    """Floats by their bits: -0.0 and 0.0 differ, and so do NaNs of other payloads. Text by value, whatever its encoding."""
    array = _plain(column).combine_chunks()
    return _hash(str(column.type).encode(), *_bytes(array))


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dictionaries decoded."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _bytes(array: pa.Array) -> Iterable[bytes]:
    """Which values are null, then the others: a null's own bytes are not defined."""
    yield array.is_valid().to_numpy(zero_copy_only=False).tobytes()
    values = array.drop_null()
    if pa.types.is_list(array.type):
        yield pc.list_value_length(values).to_numpy().tobytes()
        yield from _bytes(values.flatten())
    elif pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        yield json.dumps(values.to_pylist()).encode()
    else:
        yield np.ascontiguousarray(values.to_numpy(zero_copy_only=False)).tobytes()


def of_summary(summary: dict[str, Any]) -> dict[str, str]:
    """A hash per key, of all that no clock decides; floats in full."""
    return {
        key: _hash(json.dumps(_unclocked(value), sort_keys=True).encode())
        for key, value in summary.items()
        if key not in CLOCKED
    }


def _unclocked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unclocked(one) for key, one in value.items() if key not in CLOCKED}
    return [_unclocked(one) for one in value] if isinstance(value, list) else value


def _hash(*parts: bytes) -> str:
    """With the parts' lengths, so that no byte can pass from one to the next."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:16]


def differences(recorded: Any, found: Any, name: str = "") -> list[str]:
    """One line for each leaf that differs, is missing or is new."""
    if isinstance(recorded, dict) and isinstance(found, dict):
        keys = [*recorded, *(key for key in found if key not in recorded)]
        absent = "absent"
        return [
            line
            for key in keys
            for line in differences(recorded.get(key, absent), found.get(key, absent), f"{name}.{key}" if name else key)
        ]
    return [] if recorded == found else [f"{name}: recorded {_short(recorded)}, found {_short(found)}"]


def _short(value: Any) -> str:
    return f"{len(value)} entries" if isinstance(value, dict) else str(value)
