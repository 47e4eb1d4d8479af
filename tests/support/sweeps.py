"""Tolerance sweeps of a finished campaign, and its rows as the sweep has to weigh them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import testbed
from testbed.core.folder.files import sha256_file
from testbed.core.folder.manifest import checksummed
from testbed.golden.arrays import read_array
from testbed.sweep.run import SweepRequest, sweep_campaign
from tests.support.progress import no_progress

GRID = (1e-8, 1e-6, 1e-4, 1e-2, 1.0)


def swept(folder: Path, **asked: Any) -> dict[str, Any]:
    return sweep_campaign(folder, SweepRequest(**{"noise": (), **asked}), no_progress).to_json()


def part_of(result: dict[str, Any], tier: int | None = None, **model: str) -> dict[str, Any]:
    """The only record of this fault model and tier."""
    wanted = {"target": "model", "where": "activation", "op": "flip", "tier": tier, **model}
    (found,) = [part for part in result["tiers"] if all(part[name] == value for name, value in wanted.items())]
    return dict(found)


def stored_rows(folder: Path) -> pd.DataFrame:
    """With the weight of each row: its stratum's population over the stratum's rows."""
    rows = pq.read_table(folder / "results.parquet").to_pandas()
    plan = pq.read_table(folder / "faults.parquet", columns=["fault_id", "population"]).to_pandas()
    rows = rows.merge(plan, on="fault_id")
    rows["weight"] = rows["population"] / rows.groupby("stratum")["fault_id"].transform("size")
    return rows


def rewrite(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Other rows, as if the campaign had found them."""
    path = folder / "results.parquet"
    table = pq.read_table(path)
    rows = change(table.to_pandas())
    pq.write_table(pa.Table.from_pandas(rows, schema=table.schema, preserve_index=False), path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["stages"]["execute"]["outputs"]["results.parquet"] = sha256_file(path)
    (folder / "manifest.json").write_text(json.dumps(checksummed(manifest)))


def plain_deviation(run: testbed.Run, which: np.ndarray, rtol: float) -> np.ndarray:
    """The smallest atol of the plain engine's images against torch, by NumPy (to its rounding)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(run.plain_file().read_bytes(), providers=["CPUExecutionProvider"])
    images = read_array(run.folder / "inputs" / "model.npy")
    outputs = session.run(None, {session.get_inputs()[0].name: np.asarray(images)})[0].astype(np.float64)
    golden = read_array(run.folder / "golden" / "logits.npy")[run.workplace.images.positions].astype(np.float64)
    found: np.ndarray = np.maximum(np.abs(outputs - golden) - rtol * np.abs(golden), 0).max(1)[which]
    return found
