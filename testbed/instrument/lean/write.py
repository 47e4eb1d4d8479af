"""Lean models written with their weights, which are streamed from where they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from onnx import ModelProto, TensorProto

from testbed.core.folder.files import atomic_path
from testbed.instrument.lean.apart import write_apart
from testbed.instrument.lean.stored import INLINE, LARGEST, Stored, entries_of, forget, size_of, stored_of
from testbed.instrument.lean.wire import BYTES, GRAPH, INITIALIZER, RAW, as_varint, fields, key


def _segments(proto: ModelProto) -> list[bytes | Stored]:
    """The model in one piece, as protobuf would write it: bytes, and weights that are still on disk."""
    header, tail = ModelProto(), ModelProto()
    header.CopyFrom(proto)
    header.ClearField("graph")
    graph: list[bytes | Stored] = []
    content = proto.graph.SerializeToString(deterministic=True)
    for number, kind, start, value, end in fields(content, 0, len(content)):
        if (number, kind) == (INITIALIZER, BYTES):
            tensor = TensorProto.FromString(content[value:end])
            if (stored := stored_of(tensor)) is not None:
                graph += _tensor_segments(tensor, stored)
                continue
        graph.append(content[start:end])
    for name in ("opset_import", "metadata_props", "training_info", "functions", "configuration"):  # behind the graph
        tail.MergeFrom(_only(header, name))
        header.ClearField(name)
    length = _length(graph)
    return [
        header.SerializeToString(deterministic=True),
        key(GRAPH) + as_varint(length),
        *graph,
        tail.SerializeToString(deterministic=True),
    ]


def _only(proto: ModelProto, field: str) -> ModelProto:
    kept = ModelProto()
    getattr(kept, field).extend(getattr(proto, field))
    return kept


def _tensor_segments(tensor: TensorProto, stored: Stored) -> list[bytes | Stored]:
    forget(tensor, bool(entries_of(tensor).get(INLINE)))
    behind = TensorProto(metadata_props=tensor.metadata_props)
    for name in ("doc_string", "data_location"):
        if tensor.HasField(name):
            setattr(behind, name, getattr(tensor, name))
            tensor.ClearField(name)
    tensor.ClearField("metadata_props")
    inner: list[bytes | Stored] = [
        tensor.SerializeToString(deterministic=True) + key(RAW) + as_varint(stored.length),
        stored,
        behind.SerializeToString(deterministic=True),
    ]
    return [key(INITIALIZER) + as_varint(_length(inner)), *inner]


def _length(segments: list[bytes | Stored]) -> int:
    return sum(part.length if isinstance(part, Stored) else len(part) for part in segments)


def _contents(segments: list[bytes | Stored]) -> Iterator[bytes]:
    for part in segments:
        if isinstance(part, Stored):
            yield from part.chunks()
        else:
            yield part


def write_model(proto: ModelProto, path: Path) -> str:
    """Writes the model with its weights, and gives its SHA-256: that of the model in one piece.

    From 2 GiB on the weights go into PATH.data, to which the model refers.
    """
    if size_of(proto) < LARGEST:
        digest = hashlib.sha256()
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            for chunk in _contents(_segments(proto)):
                digest.update(chunk)
                file.write(chunk)
        return digest.hexdigest()
    write_apart(proto, path)
    return model_sha256(proto)


def model_sha256(proto: ModelProto) -> str:
    """Hash the model as it is in one piece."""
    digest = hashlib.sha256()
    for chunk in _contents(_segments(proto)):
        digest.update(chunk)
    return digest.hexdigest()
