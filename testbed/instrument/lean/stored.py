"""Where the large weights of a lean model lie, and what takes them in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto, TensorProto, helper

from testbed.core.errors import TestbedError

LARGEST = 2**31
"""Bytes that protobuf reads and writes in one piece."""
INLINE = "inline"
"""Key of a weight that is in the file itself."""
_CHUNK = 1 << 24
_BITS: dict[int, int] = {TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.FLOAT4E2M1: 4}


@dataclass(frozen=True)
class Stored:
    """Where a weight's bytes are."""

    file: Path
    offset: int
    length: int

    def chunks(self) -> Iterator[bytes]:
        """Raises TestbedError for a file that ends before."""
        with open(self.file, "rb") as file:
            file.seek(self.offset)
            left = self.length
            while left:
                chunk = file.read(min(left, _CHUNK))
                if not chunk:
                    raise TestbedError(f"{self.file} was cut off while it was read")
                left -= len(chunk)
                yield chunk


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


def refer(tensor: TensorProto, stored: Stored, **more: str) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    values = {"location": str(stored.file.absolute()), "offset": str(stored.offset), "length": str(stored.length)}
    for key, value in (values | more).items():
        tensor.external_data.add(key=key, value=value)


def stored_of(tensor: TensorProto) -> Stored | None:
    """Where a lean model's weight lies on disk; None for one that is held."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return None
    entries = entries_of(tensor)
    return Stored(Path(entries["location"]), int(entries["offset"]), int(entries["length"]))


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


def bytes_of(tensor: TensorProto) -> int:
    numbers = math.prod(tensor.dims)
    if tensor.data_type in _BITS:
        return -(-numbers * _BITS[tensor.data_type] // 8)
    return numbers * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
