"""What a model takes: names, element types and shapes of its inputs, checked before a native engine sees an array.

Engines differ in what they do with a wrong array: refuse it, cast it, or reuse the one of the run before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from testbed.core.errors import EngineError
from testbed.engines.runner import Arrays

AxisSize = int | str
POINTS = "points"
"""Name of the dimension of a twin's fault inputs that counts the struck elements per row."""


@dataclass(frozen=True)
class Input:
    """``shape``: a number, or the name of a dimension that all inputs share ("?" is any)."""

    name: str
    dtype: np.dtype
    shape: tuple[AxisSize, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype.name} ({', '.join(map(str, self.shape))})"


@dataclass(frozen=True)
class Signature:
    """Inputs (without weights) and output names, in the file's order."""

    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]

    def checked(self, feeds: Arrays) -> dict[str, NDArray]:
        """The feeds, C-contiguous and in the model's order. Raises EngineError for arrays that it does not take."""
        if feeds.keys() != self._known:
            raise EngineError(
                f"the engine is fed {', '.join(sorted(feeds)) or 'nothing'}; the model takes {self._names()}"
            )
        arrays = {i.name: np.asarray(feeds[i.name], order="C") for i in self.inputs}
        sizes: dict[str, int] = {}
        for wanted, array in zip(self.inputs, arrays.values(), strict=True):
            if array.dtype != wanted.dtype or not _fits(array.shape, wanted.shape, sizes):
                got = f"{array.dtype.name} {array.shape}"
                shared = "".join(f", {name} = {size}" for name, size in sizes.items())
                raise EngineError(f"the model takes {wanted}{shared}, not {got}")
        return arrays

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(i.name for i in self.inputs)

    def points(self, arrays: Arrays) -> int:
        """How many elements per row the fault inputs of a twin name; 0 where the model has none."""
        counted = ((value.name, value.shape.index(POINTS)) for value in self.inputs if POINTS in value.shape)
        return max((arrays[name].shape[axis] for name, axis in counted), default=0)

    def _names(self) -> str:
        return ", ".join(i.name for i in self.inputs)


def _fits(shape: Sequence[int], wanted: Sequence[AxisSize], sizes: dict[str, int]) -> bool:
    """Notes the size of each named dimension at its first use."""
    if len(shape) != len(wanted):
        return False
    for size, axis in zip(shape, wanted, strict=True):  # before every run: no generator, no call per axis
        if isinstance(axis, int):
            if size != axis:
                return False
        elif axis != "?" and sizes.setdefault(axis, size) != size:
            return False
    return True


def signature_of(proto: onnx.ModelProto) -> Signature:
    stored = {tensor.name for tensor in proto.graph.initializer}
    inputs = []
    for value in proto.graph.input:
        if value.name in stored:
            continue
        kind = value.type.tensor_type
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
        shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in kind.shape.dim)
        inputs.append(Input(value.name, dtype, shape))
    return Signature(tuple(inputs), tuple(value.name for value in proto.graph.output))


def loaded(model: bytes) -> onnx.ModelProto:
    """Raises EngineError for bytes that are no ONNX model."""
    try:
        proto = onnx.load_from_string(model)
    except Exception as error:  # protobuf's error types come without stubs
        raise EngineError(
            f"this file is not ONNX: {(str(error).splitlines() or ['it cannot be parsed'])[0]}"
        ) from error
    if not proto.graph.output:
        raise EngineError("this file is not ONNX: it has no graph with outputs")
    return proto
