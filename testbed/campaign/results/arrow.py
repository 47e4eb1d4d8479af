"""Rows on their way from worker to store: tables as Arrow IPC streams in memory, compressed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

# A unit's columns are short: threads to (un)compress them took three times the processor's time.
_WRITE = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
_CHOSEN_BY = ("fault_id", "due", "target", "where", "op", "pattern", "scope", "points")
_READ = pa.ipc.IpcReadOptions(use_threads=False)


def to_stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=_WRITE) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def from_stream(stream: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads a stream. columns: only these are read (those that there are), in the stream's order."""
    if columns is None:
        return pa.ipc.open_stream(stream, options=_READ).read_all()
    names = pa.ipc.open_stream(stream).schema.names
    wanted = [index for index, name in enumerate(names) if name in columns]
    few = pa.ipc.IpcReadOptions(included_fields=wanted, use_threads=False)
    return pa.ipc.open_stream(stream, options=few).read_all()


def parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Opens a compressed file. Only text has dictionaries, and only what rows are chosen by has statistics: for numbers, which
    hardly repeat, either took longer than to write them."""
    texts = [field.name for field in schema if pa.types.is_dictionary(field.type)]
    chosen = [name for name in _CHOSEN_BY if name in schema.names]
    return pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=texts, write_statistics=chosen)


class Coded(NamedTuple):
    """A column of text. codes: (n,) into ``names``, -1 for null; every name is used, in alphabetical order."""

    names: tuple[str, ...]
    codes: NDArray[np.int64]


def coded(column: pa.ChunkedArray) -> Coded:
    """The column by its dictionary, which may name more and name it twice, without a look at each row."""
    array = column.unify_dictionaries().combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    codes = array.indices.fill_null(-1).to_numpy().astype(np.int64)
    used = np.flatnonzero(np.bincount(codes + 1, minlength=1)[1:])
    texts = array.dictionary.take(pa.array(used)).to_pylist()
    names = tuple(sorted(set(texts)))
    number = {name: code for code, name in enumerate(names)}
    recoded = np.full(len(array.dictionary) + 1, -1, np.int64)  # null indexes the last
    recoded[used] = [number[name] for name in texts]
    return Coded(names, recoded[codes])


def join_streams(streams: Sequence[bytes]) -> bytes:
    """One stream with the rows of all, in order."""
    if len(streams) == 1:
        return streams[0]
    table = pa.concat_tables([from_stream(stream) for stream in streams]).unify_dictionaries()
    return to_stream(table.combine_chunks())
