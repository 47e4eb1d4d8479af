"""Run folders and goldens: every file damaged, edited, gone, or something else; and result files of other writers."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from malformed_inputs.case import Base, Case
from malformed_inputs.values import HOSTILE, as_json, damaged, random_edit
from testbed.core.folder.manifest import checksummed

READ_RUN: tuple[tuple[str, ...], ...] = (
    ("campaign", "show", "run"),
    ("campaign", "show", "run", "--json"),
    ("campaign", "status", "run"),
    ("report", "run"),
    ("fault", "replay", "run", "3"),
    ("sweep", "run", "--to", "grid.csv"),
    ("campaign", "compare", "run", "other"),
    ("campaign", "run", "spec.toml", "--run", "run"),
)
READ_MODEL: tuple[tuple[str, ...], ...] = (
    ("golden", "verify", "run", "--engine", "torch"),
    ("golden", "run", "--logits-only"),
    ("tiers", "run"),
    ("subset", "run", "--per-tier", "1,1,1,1"),
    ("export", "run"),
    ("export-weights", "run", "--to", "w.pth"),
)


def run_folders(base: Base, rng: np.random.Generator) -> Iterator[Case]:
    yield from _folders("run folder", base.run, READ_RUN, base, rng)


def goldens(base: Base, rng: np.random.Generator) -> Iterator[Case]:
    yield from _folders("golden", base.model, READ_MODEL, base, rng)


def _folders(
    kind: str, folder: Path, commands: Sequence[tuple[str, ...]], base: Base, rng: np.random.Generator
) -> Iterator[Case]:
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    texts = [file for file in files if file.suffix == ".json"]
    while True:
        command = commands[int(rng.integers(len(commands)))]
        if rng.random() < 0.5:
            manifest = Path("manifest.json")
            file = manifest if rng.random() < 0.6 else texts[int(rng.integers(len(texts)))]
            name, tree = random_edit(json.loads((folder / file).read_text()), rng)
            if file == manifest and rng.random() < 0.5:
                name, tree = f"{name}, signed again", signed_again(tree)
            content: bytes | None = as_json(tree).encode("utf-8", "surrogatepass")
        else:
            file = files[int(rng.integers(len(files)))]
            name, content = _whole_file(folder / file, rng)
        told = f"{' '.join(command)}: {file}: {name}"
        yield Case(kind, told, partial(_lay_out, folder, base, file, content, name, command))


def _whole_file(path: Path, rng: np.random.Generator) -> tuple[str, bytes | None]:
    how = rng.random()
    if how < 0.15:
        return ("deleted", "a folder", "a loop of links")[int(rng.integers(3))], None
    if how < 0.35 and path.suffix == ".npy":
        return _npy(path, rng)
    return damaged(path.read_bytes(), rng)


def _npy(path: Path, rng: np.random.Generator) -> tuple[str, bytes]:
    """A header that lies, or another sound array."""
    array = np.load(path)
    others: dict[str, Callable[[], np.ndarray]] = {
        "objects": lambda: np.array([{"a": 1}, None], object),
        "float64": lambda: array.astype(np.float64),
        "shorter": lambda: array[: len(array) // 2],
        "nan": lambda: np.full_like(array, np.nan) if array.dtype.kind == "f" else array * 0,
        "text": lambda: np.array([HOSTILE]),
        "flat": lambda: array.ravel(),
        "empty": lambda: array[:0],
        "big-endian": lambda: array.astype(array.dtype.newbyteorder(">")),
        "fortran": lambda: np.asfortranarray(array),
    }
    name = [*others, "huge shape", "negative shape"][int(rng.integers(len(others) + 2))]
    stream = io.BytesIO()
    if name in others:
        np.save(stream, others[name](), allow_pickle=True)
        return f"npy {name}", stream.getvalue()
    shape = (2**40, 2**20) if name == "huge shape" else (-5,)
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return f"npy {name}", stream.getvalue() + array.tobytes()


def _lay_out(
    source: Path, base: Base, file: Path, content: bytes | None, name: str, command: tuple[str, ...], folder: Path
) -> list[str]:
    shutil.copytree(source, folder / "run")
    if "other" in command:
        (folder / "other").symlink_to(base.other)
    (folder / "spec.toml").write_text(base.spec)
    target = folder / "run" / file
    target.unlink()
    if content is not None:
        target.write_bytes(content)
    elif name == "a folder":
        target.mkdir()
    elif name == "a loop of links":
        target.symlink_to(target)
    return list(command)


def results(base: Base, rng: np.random.Generator) -> Iterator[Case]:
    """results.parquet and faults.parquet as another writer might leave them; the manifest believes them."""
    commands = [command for command in READ_RUN if command[1] != "status"]
    while True:
        command = commands[int(rng.integers(len(commands)))]
        file = ("results.parquet", "faults.parquet", "faults.points.parquet")[int(rng.integers(3))]
        frame = pd.read_parquet(base.run / file)
        name, table = _other_writer(frame, rng)
        believed = rng.random() < 0.8
        told = f"{' '.join(command)}: {file}: {name}{', recorded' if believed else ''}"
        yield Case("results", told, partial(_table, base, file, table, believed, command))


def _other_writer(frame: pd.DataFrame, rng: np.random.Generator) -> tuple[str, pa.Table]:
    column = str(frame.columns[int(rng.integers(len(frame.columns)))])
    values = {
        "text": lambda: [HOSTILE] * len(frame),
        "null": lambda: pa.nulls(len(frame)),
        "float": lambda: np.full(len(frame), np.nan),
        "negative": lambda: np.full(len(frame), -7),
        "huge": lambda: np.full(len(frame), 2**62),
        "lists": lambda: [[1, 2]] * len(frame),
        "bytes": lambda: [b"\xff"] * len(frame),
        "structs": lambda: [{"a": 1}] * len(frame),
        "dates": lambda: pd.date_range("2020", periods=len(frame)),
        "decimal": lambda: pa.array(range(len(frame))).cast(pa.decimal128(20, 0)),
    }
    how = rng.random()
    if how < 0.35:
        return f"without {column}", pa.Table.from_pandas(frame.drop(columns=column), preserve_index=False)
    if how < 0.75:
        kind = list(values)[int(rng.integers(len(values)))]
        table = pa.Table.from_pandas(frame.drop(columns=column), preserve_index=False)
        return f"{column} of {kind}", table.append_column(column, pa.array(values[kind]()))
    table = pa.Table.from_pandas(frame, preserve_index=False)
    return [
        ("no rows", table.slice(0, 0)),
        ("every row twice", pa.concat_tables([table, table])),
        ("half of the rows", table.slice(0, len(frame) // 2)),
        ("another order", table.take(pa.array(np.random.default_rng(0).permutation(len(frame))))),
        ("one more column", table.append_column(HOSTILE, pa.nulls(len(frame)))),
        ("no columns", pa.table({})),
        ("columns twice", table.append_column(column, table.column(column))),
    ][int(rng.integers(7))]


def signed_again(manifest: Any) -> Any:
    """As if the edit had been recorded: where its checksum is right, nothing but its content can be refused."""
    try:
        return checksummed(manifest)
    except Exception:  # what is edited so far that it cannot be signed
        return manifest


def _recorded(run: Path, file: str) -> None:
    """Makes the run's manifest name the file as it is now."""
    manifest = json.loads((run / "manifest.json").read_text())
    for stage in manifest["stages"].values():
        if file in stage["outputs"]:
            stage["outputs"][file] = hashlib.sha256((run / file).read_bytes()).hexdigest()
    (run / "manifest.json").write_text(json.dumps(checksummed(manifest)))


def _table(base: Base, file: str, table: pa.Table, believed: bool, command: tuple[str, ...], folder: Path) -> list[str]:
    shutil.copytree(base.run, folder / "run")
    if "other" in command:
        (folder / "other").symlink_to(base.other)
    (folder / "spec.toml").write_text(base.spec)
    (folder / "run" / file).unlink()
    pq.write_table(table, folder / "run" / file)
    if believed:
        _recorded(folder / "run", file)
    return list(command)
