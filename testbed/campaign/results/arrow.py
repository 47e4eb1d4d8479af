"""Rows on their way from worker to store: tables as Arrow IPC streams in memory, compressed."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa


def to_stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def from_stream(stream: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads a stream. columns: only these are read (those that there are), in the stream's order."""
    if columns is None:
        return pa.ipc.open_stream(stream).read_all()
    names = pa.ipc.open_stream(stream).schema.names
    wanted = [index for index, name in enumerate(names) if name in columns]
    return pa.ipc.open_stream(stream, options=pa.ipc.IpcReadOptions(included_fields=wanted)).read_all()


def join_streams(streams: Sequence[bytes]) -> bytes:
    """One stream with the rows of all, in order."""
    if len(streams) == 1:
        return streams[0]
    table = pa.concat_tables([from_stream(stream) for stream in streams]).unify_dictionaries()
    return to_stream(table.combine_chunks())
