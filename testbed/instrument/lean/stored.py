"""Where the large weights of a lean model lie, and what takes them in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from testbed.core.errors import TestbedError
from testbed.export import layout

LARGEST = 2**31
"""Bytes that protobuf reads and writes in one piece."""
INLINE = "inline"
"""Key of a weight that is in the file itself."""
_TURNED = "transposed"  # key of a matrix that is read transposed: rows, columns and bytes of a number, as it lies
_CHUNK = 1 << 24
_BITS: dict[int, int] = {TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.FLOAT4E2M1: 4}


@dataclass(frozen=True)
class StoredMatrix:
    """A matrix as it lies on disk, row by row."""

    rows: int
    columns: int
    itemsize: int


@dataclass(frozen=True)
class Stored:
    """Where a weight's bytes are. transposed: the matrix that lies there, where it is read column by column."""

    file: Path
    offset: int
    length: int
    transposed: StoredMatrix | None = None

    def chunks(self) -> Iterator[bytes]:
        """Raises TestbedError for a file that ends before."""
        if self.transposed is not None:
            yield from self._columns(self.transposed)
            return
        with open(self.file, "rb") as file:
            file.seek(self.offset)
            left = self.length
            while left:
                chunk = file.read(min(left, _CHUNK))
                if not chunk:
                    raise TestbedError(f"{self.file} was cut off while it was read")
                left -= len(chunk)
                yield chunk

    def _columns(self, matrix: StoredMatrix) -> Iterator[bytes]:
        """Some columns at a time, each as a row."""
        lying = self.mapped(np.dtype(f"V{matrix.itemsize}")).reshape(matrix.rows, matrix.columns)
        some = max(1, _CHUNK // max(1, matrix.rows * matrix.itemsize))
        for column in range(0, matrix.columns, some):
            yield np.ascontiguousarray(lying[:, column : column + some].T).tobytes()

    def mapped(self, dtype: np.dtype) -> NDArray:
        """(n,) numbers in the order in which they lie, read when they are asked for. Changes do not reach the file.

        Raises TestbedError for a file that ends before.
        """
        if self.file.stat().st_size < self.offset + self.length:
            raise TestbedError(f"{self.file} was cut off while it was read")
        return np.memmap(self.file, np.uint8, "c", self.offset, (self.length,)).view(np.ndarray).view(dtype)


def tensors_of(proto: ModelProto) -> Iterator[TensorProto]:
    """Initializers, and what nodes hold, at any depth."""
    graphs = [proto.graph]
    while graphs:
        graph = graphs.pop()
        yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                if attribute.HasField("g"):
                    graphs.append(attribute.g)
                graphs.extend(attribute.graphs)


def entries_of(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def refer(tensor: TensorProto, location: Path, offset: int, length: int, **more: str) -> None:
    """Makes a weight lie in a file. more: further entries of the reference."""
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    values = {"location": str(location), "offset": str(offset), "length": str(length)}
    for key, value in (values | more).items():
        tensor.external_data.add(key=key, value=value)


def refer_to(tensor: TensorProto, stored: Stored, **more: str) -> None:
    """`refer`, by the file's whole path."""
    if (matrix := stored.transposed) is not None:
        more[_TURNED] = f"{matrix.rows},{matrix.columns},{matrix.itemsize}"
    refer(tensor, stored.file.absolute(), stored.offset, stored.length, **more)


def stored_of(tensor: TensorProto) -> Stored | None:
    """Where a lean model's weight lies on disk; None for one that is held."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return None
    entries = entries_of(tensor)
    matrix = StoredMatrix(*map(int, entries[_TURNED].split(","))) if _TURNED in entries else None
    return Stored(Path(entries["location"]), int(entries["offset"]), int(entries["length"]), matrix)


def transpose(tensor: TensorProto) -> None:
    """Turns a matrix; one on disk stays there, and is turned when it is read."""
    stored = stored_of(tensor)
    if stored is None or stored.transposed is not None or not numbers_in_bytes(tensor):
        load_weight(tensor)
        layout.transpose(tensor)
        return
    rows, columns = tensor.dims
    matrix = StoredMatrix(rows, columns, stored.length // (rows * columns))
    turned = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[columns, rows])
    refer_to(
        turned, replace(stored, transposed=matrix), **{INLINE: "1"}
    )  # once read it is as if it had been in the file
    tensor.CopyFrom(turned)


def load_weight(tensor: TensorProto) -> None:
    """Takes a weight's bytes into the model."""
    if (stored := stored_of(tensor)) is not None:
        take_in(tensor, stored, was_inline=bool(entries_of(tensor).get(INLINE)))


def take_in(tensor: TensorProto, stored: Stored, was_inline: bool) -> None:
    tensor.raw_data = b"".join(stored.chunks())
    forget(tensor, was_inline)


def forget(tensor: TensorProto, was_inline: bool) -> None:
    del tensor.external_data[:]
    if was_inline:
        tensor.ClearField("data_location")
    else:
        tensor.data_location = TensorProto.DEFAULT  # as onnx leaves it


class TooLarge(TestbedError):
    """A model of 2 GiB and more where its weights are needed in one piece."""


def loaded(proto: ModelProto) -> ModelProto:
    """The model with all its weights; ``proto`` itself where it holds them. Raises TooLarge for 2 GiB and more."""
    if all(stored_of(tensor) is None for tensor in proto.graph.initializer):
        return proto
    if size_of(proto) >= LARGEST:
        raise TooLarge(f"the model {too_large(size_of(proto))}")
    whole = ModelProto()
    whole.CopyFrom(proto)
    for tensor in whole.graph.initializer:
        load_weight(tensor)
    return whole


def size_of(proto: ModelProto) -> int:
    """Bytes with all weights."""
    stored = (stored_of(tensor) for tensor in proto.graph.initializer)
    return int(proto.ByteSize()) + sum(weight.length for weight in stored if weight is not None)


def too_large(size: int) -> str:
    """What is said of a model that is larger than one piece."""
    return (
        f"holds {size / 2**30:.1f} GiB with its weights; larger than 2 GiB, protobuf's limit, is not supported here: export it"
        " in fp16, or a smaller model"
    )


def numbers_in_bytes(tensor: TensorProto) -> bool:
    """Whether each number has bytes of its own: several of 4 bits share one."""
    return tensor.data_type not in _BITS


def bytes_of(tensor: TensorProto) -> int:
    numbers = math.prod(tensor.dims)
    if tensor.data_type in _BITS:
        return -(-numbers * _BITS[tensor.data_type] // 8)
    return numbers * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
