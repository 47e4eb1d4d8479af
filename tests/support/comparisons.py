"""Finished campaigns, changed row by row, for the tests that compare campaigns."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from testbed.compare.campaigns import compare_campaigns
from testbed.core.folder.files import sha256_file, sha256_json
from testbed.core.folder.manifest import checksummed

INSIDE = ["identical", "masked"]
LEG = ["target", "where"]
KEYS = ["target", "where", "site", "index", "op", "bit", "and_mask", "or_mask", "xor_mask", "image_id"]
Change = Callable[[pd.DataFrame], pd.DataFrame]


def unchanged(frame: pd.DataFrame) -> pd.DataFrame:
    return frame


def rewritten(path: Path, change: Change) -> None:
    table = pq.read_table(path)
    changed = pa.Table.from_pandas(change(table.to_pandas()), schema=table.schema, preserve_index=False)
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)


def edited(
    source: Path,
    folder: Path,
    rows: Change = unchanged,
    plan: Change = unchanged,
    manifest: Callable[[dict[str, Any]], None] = lambda manifest: None,
) -> Path:
    """A copy of the run that had other results, plan or settings from the start."""
    folder.mkdir()
    tables = [path.name for path in source.glob("*.sites.json")]
    for name in ("manifest.json", "tiers.json", "faults.parquet", "results.parquet", *tables):
        shutil.copy(source / name, folder / name)
    content = json.loads((folder / "manifest.json").read_text())
    for stage, file, change in (("execute", "results.parquet", rows), ("plan", "faults.parquet", plan)):
        rewritten(folder / file, change)
        content["stages"][stage]["outputs"][file] = sha256_file(folder / file)
    manifest(content)
    content["identity"] = sha256_json(content["spec"])
    (folder / "manifest.json").write_text(json.dumps(checksummed(content)))
    return folder


def with_outcome(outcome: str, chosen: Callable[[pd.DataFrame], pd.Series]) -> Change:
    def change(rows: pd.DataFrame) -> pd.DataFrame:
        names = rows["outcome"].astype(str)
        return rows.assign(outcome=names.where(~chosen(rows), outcome))

    return change


def results(run: Path) -> pd.DataFrame:
    rows = pq.read_table(run / "results.parquet").to_pandas()
    plan = pq.read_table(run / "faults.parquet", columns=["fault_id", "population"]).to_pandas()
    for name in ("target", "where", "site", "format", "op", "image_id", "outcome", "bit_class"):
        rows[name] = rows[name].astype(str)
    return rows.merge(plan, on="fault_id")


def compared_json(first: Path, second: Path) -> dict[str, Any]:
    """The comparison as ``--json`` prints it, but for infinities."""
    return compare_campaigns(first, second).to_json()


def one(compared: dict[str, Any], target: str, where: str, op: str | None = None) -> dict[str, Any]:
    (found,) = [r for r in compared["agreement"] if (r["target"], r["where"], r["op"]) == (target, where, op)]
    return dict(found)
