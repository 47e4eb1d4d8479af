"""ONNX files read without their large weights."""

from __future__ import annotations

import io
import mmap
import os
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto

from testbed.core.errors import TestbedError
from testbed.instrument.lean.stored import (
    INLINE,
    LARGEST,
    Stored,
    bytes_of,
    entries_of,
    refer_to,
    take_in,
    tensors_of,
    too_large,
)
from testbed.instrument.lean.wire import BYTES, GRAPH, INITIALIZER, RAW, field, fields
from testbed.instrument.skeleton import LARGE, is_large

Content = mmap.mmap | bytes


def read_model(path: Path) -> tuple[ModelProto, bool]:
    """The lean model of a file, and whether it keeps weights beside it.

    Raises TestbedError for weights that are not there, are cut off, or lie outside the file's folder, with their names;
    what protobuf raises for a file that is not ONNX.
    """
    try:
        proto = onnx.load_model_from_string(_without_large(path))
    except (IndexError, ValueError) as error:  # not ONNX, or damaged: protobuf says what is wrong
        if (size := path.stat().st_size) >= LARGEST:
            raise TestbedError(f"{path} {too_large(size)}") from error
        proto = onnx.load_model(str(path), load_external_data=False)
    beside = False
    for tensor in tensors_of(proto):
        if tensor.data_location == TensorProto.EXTERNAL and not entries_of(tensor).get(INLINE):
            beside = True
            stored = _checked(tensor, path)
            if is_large(tensor):
                refer_to(tensor, stored)
            else:
                take_in(tensor, stored, was_inline=False)
    return proto, beside


def _without_large(path: Path) -> bytes:
    """The file with a reference in place of the bytes of each large weight.

    Raises IndexError or ValueError for what is no sequence of protobuf's fields.
    """
    if not path.stat().st_size:
        raise ValueError("an empty file")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _lean_model(content, path)


def outline(model: bytes) -> ModelProto:
    """Names, nodes and shapes of a model: all but the numbers of large weights, which cannot be loaded any more."""
    return onnx.load_model_from_string(_lean_model(model, None))


def _lean_model(content: Content, path: Path | None) -> bytes:
    made = io.BytesIO()
    for number, kind, start, value, end in fields(content, 0, len(content)):
        if (number, kind) == (GRAPH, BYTES):
            made.write(field(GRAPH, _lean_graph(content, value, end, path)))
        else:
            made.write(content[start:end])
    return made.getvalue()


def _lean_graph(content: Content, start: int, end: int, path: Path | None) -> bytes:
    made = io.BytesIO()
    for number, kind, begin, value, stop in fields(content, start, end):
        if (number, kind) == (INITIALIZER, BYTES) and stop - value > LARGE:
            made.write(field(INITIALIZER, _lean_tensor(content, value, stop, path)))
        else:
            made.write(content[begin:stop])
    return made.getvalue()


def _lean_tensor(content: Content, start: int, end: int, path: Path | None) -> bytes:
    """The tensor with a reference to its bytes in place of these.

    path: of the file, which they will be read from; None where they will not, and there is no reference.
    """
    rest, offset, length = b"", 0, -1
    for number, kind, begin, value, stop in fields(content, start, end):
        if (number, kind) == (RAW, BYTES):
            offset, length = value, stop - value
        else:
            rest += content[begin:stop]
    tensor = TensorProto.FromString(rest)
    if not is_large(tensor) or length != bytes_of(tensor):
        return bytes(content[start:end])
    if path is not None:
        refer_to(tensor, Stored(path, offset, length), inline="1")
    return bytes(tensor.SerializeToString())


def _checked(tensor: TensorProto, path: Path) -> Stored:
    """Where an external weight lies. Raises TestbedError, with its name, where it cannot be read."""

    def refused(why: str) -> TestbedError:
        return TestbedError(f"{path}: the weights kept beside it cannot be read: {tensor.name!r} {why}")

    entries = entries_of(tensor)
    location = entries.get("location", "")
    file = path.parent / location
    if not location or os.path.isabs(location) or not file.resolve().is_relative_to(path.parent.resolve()):
        raise refused(f"is said to lie in {location!r}, which is not in the file's own folder; export the model again")
    if not file.is_file():
        raise refused(f"lies in {location}, which is not there; put that file beside {path.name}")
    size, offset = file.stat().st_size, int(entries.get("offset", "0"))
    wanted = bytes_of(tensor)
    length = int(entries.get("length", "0")) or wanted
    if length != wanted:
        raise refused(f"has {length:,} bytes, though its shape asks for {wanted:,}; export the model again")
    if offset < 0 or offset + length > size:
        ends = f"ends at byte {size:,}"
        raise refused(f"lies in {location}, which {ends} before it does: it is cut off; copy that file again")
    return Stored(file, offset, length)
