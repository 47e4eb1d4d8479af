"""Rows on their way from worker to store: tables as Arrow IPC streams in memory, compressed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

# A unit's columns are short: threads to (un)compress them took three times the processor's time.
_WRITE = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
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
    """Opens a compressed file. Only text has dictionaries: numbers hardly repeat, and to look for it took half the time."""
    texts = [field.name for field in schema if pa.types.is_dictionary(field.type)]
    return pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=texts)


def join_streams(streams: Sequence[bytes]) -> bytes:
    """One stream with the rows of all, in order."""
    if len(streams) == 1:
        return streams[0]
    table = pa.concat_tables([from_stream(stream) for stream in streams]).unify_dictionaries()
    return to_stream(table.combine_chunks())
