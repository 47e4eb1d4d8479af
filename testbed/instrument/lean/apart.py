"""Models of 2 GiB and more in two files: the graph, and its large weights beside it, to which it refers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from testbed.core.folder.files import atomic_path, write_bytes
from testbed.instrument.lean.stored import (
    Stored,
    bytes_of,
    entries_of,
    load_weight,
    numbers_in_bytes,
    refer,
    stored_of,
    tensors_of,
)
from testbed.instrument.skeleton import is_large

_ALIGNED = 64  # bytes: where each weight begins, so that it can be computed with where it lies
CONTENT = "testbed.weights"
"""Metadata of a model whose weights lie beside it: their SHA-256, so that the model's own bytes say what it computes."""


class Apart(NamedTuple):
    """``model``: without large weights. ``weights``: what they are, in the order of the file beside it: where they lie, or
    tensors of the model that was taken apart."""

    model: ModelProto
    weights: list[Stored | TensorProto]

    @classmethod
    def of(cls, proto: ModelProto, data: str, hashed: bool = True) -> Apart:
        """Take a lean model apart. data: name of the file of its weights; hashed: whether the model says what is in it."""
        model, weights, offset = _without_weights(proto), list[Stored | TensorProto](), 0
        for tensor in proto.graph.initializer:
            weight = _large(tensor)
            if weight is None:
                model.graph.initializer.add().CopyFrom(tensor)
                continue
            named, length = model.graph.initializer.add(), bytes_of(tensor)
            named.MergeFrom(TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims))
            refer(named, Path(data), offset, length)
            weights.append(weight)
            offset += length + -length % _ALIGNED
        for tensor in tensors_of(model):
            if entries_of(tensor).get("location", data) != data:  # of an inner graph, or of 4 bits
                load_weight(tensor)
        apart = cls(model, weights)
        if not hashed:
            return apart
        digest = hashlib.sha256()
        for chunk in apart.content():
            digest.update(chunk)
        props = {entry.key: entry.value for entry in model.metadata_props} | {CONTENT: digest.hexdigest()}
        helper.set_model_props(model, props)
        return apart

    def content(self) -> Iterator[bytes]:
        """What the file of weights holds, in pieces. Raises TestbedError for a file that ends before its weight does."""
        for weight in self.weights:
            length = 0
            for chunk in weight.chunks() if isinstance(weight, Stored) else (bytes(weight.raw_data),):
                length += len(chunk)
                yield chunk
            yield bytes(-length % _ALIGNED)

    def mapped(self) -> dict[str, NDArray]:
        """The weights' numbers where they lie, by name; those that are turned are read into memory."""
        tensors = [tensor for tensor in self.model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
        return {tensor.name: _numbers(tensor, weight) for tensor, weight in zip(tensors, self.weights, strict=True)}

    def serialised(self) -> bytes:
        """The model, without its large weights."""
        return bytes(self.model.SerializeToString(deterministic=True))

    def write_weights(self, file: Path) -> None:
        """Write the file of weights, whole or not at all."""
        with atomic_path(file) as temporary, open(temporary, "wb") as written:
            for chunk in self.content():
                written.write(chunk)


def _numbers(tensor: TensorProto, weight: Stored | TensorProto) -> NDArray:
    dtype, shape = helper.tensor_dtype_to_np_dtype(tensor.data_type), tuple(tensor.dims)
    if isinstance(weight, TensorProto):
        return numpy_helper.to_array(weight)
    if weight.transposed is not None:
        return np.ascontiguousarray(weight.mapped(dtype).reshape(shape[::-1]).T)
    return weight.mapped(dtype).reshape(shape)


def write_apart(proto: ModelProto, path: Path) -> None:
    """Write a model in two files: its graph, and its large weights beside it."""
    apart = Apart.of(proto, data_file(path.name))
    apart.write_weights(path.with_name(data_file(path.name)))
    write_bytes(path, apart.serialised())


def data_file(model: str) -> str:
    """Name of the file of weights beside a model's file."""
    return f"{model}.data"


def _large(tensor: TensorProto) -> Stored | TensorProto | None:
    """Where a large weight lies, or itself where the model holds its bytes; None for one that stays in the graph."""
    if not numbers_in_bytes(tensor):
        return None
    return stored_of(tensor) or (tensor if is_large(tensor) and tensor.HasField("raw_data") else None)


def _without_weights(proto: ModelProto) -> ModelProto:
    """All of a model but its initializers: they are not copied, as there may be too many for that."""
    model = ModelProto()
    _copy_but(proto, model, "graph")
    _copy_but(proto.graph, model.graph, "initializer")
    return model


def _copy_but(source: Any, copy: Any, left_out: str) -> None:
    """Copies a message's fields but one."""
    for field, value in source.ListFields():
        if field.name == left_out:
            continue
        if hasattr(value, "extend"):
            getattr(copy, field.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(copy, field.name).CopyFrom(value)
        else:
            setattr(copy, field.name, value)
