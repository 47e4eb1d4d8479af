"""The operators that are about bits and number formats: casts, masks, quantisation, and moving single elements.

Every bit goes through untouched where nothing is computed: signalling NaNs, payloads, the sign of zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor

_TYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT64: torch.int64,
    TensorProto.INT32: torch.int32,
    TensorProto.INT16: torch.int16,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}
_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_BF16 = np.dtype(ml_dtypes.bfloat16)


def from_numpy(array: NDArray) -> Tensor:
    """Shares the array's memory; bfloat16 included, which torch does not take from NumPy by itself."""
    if array.dtype == _BF16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_numpy(tensor: Tensor) -> NDArray:
    """Shares a CPU tensor's memory."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(_BF16)
    return tensor.numpy()


def _as_words(x: Tensor) -> Tensor:
    """The bits: torch's own gather and scatter quiet the signalling NaNs of 16-bit formats."""
    return x.view(_WORDS[x.element_size()])


def cast(x: Tensor, *, to: int, saturate: int = 1) -> Tensor:
    return x.to(_TYPES[to])


def bit_cast(x: Tensor, *, to: int) -> Tensor:
    return x.view(_TYPES[to])


def bitwise(of: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Bitwise operations on words of any sign: torch has these for signed ones only."""

    def operator(a: Tensor, b: Tensor) -> Tensor:
        word = _WORDS[a.element_size()]
        return of(a.view(word), b.view(word)).view(a.dtype)

    return operator


def from_front(indices: Tensor, size: int) -> Tensor:
    return torch.where(indices < 0, indices + size, indices)


def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    return _as_words(x).gather(axis, from_front(indices, x.shape[axis])).view(x.dtype)


def scatter_elements(
    x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: bytes = b"none"
) -> Tensor:
    if reduction != b"none":
        raise NotImplementedError(f"ScatterElements with reduction {reduction.decode()}")
    places = from_front(indices, x.shape[axis])
    return _as_words(x).scatter(axis, places, _as_words(updates)).view(x.dtype)


def quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor | None = None, *, axis: int = 1, block_size: int = 0, saturate: int = 1
) -> Tensor:
    """NaN, which ONNX leaves open, becomes the lowest value, as in ONNX Runtime's x86 kernels."""
    scale, zero_point = _along(x, scale, axis, block_size), _along(x, zero_point, axis, block_size)
    kind = torch.uint8 if zero_point is None else zero_point.dtype
    limits = torch.iinfo(kind)
    steps = torch.round(x.to(torch.float32) / scale.to(torch.float32))
    shifted = steps if zero_point is None else steps + zero_point.to(torch.float32)
    return shifted.nan_to_num(limits.min, limits.max, limits.min).clamp(limits.min, limits.max).to(kind)


def dequantize(
    x: Tensor, scale: Tensor, zero_point: Tensor | None = None, *, axis: int = 1, block_size: int = 0
) -> Tensor:
    scale, zero_point = _along(x, scale, axis, block_size), _along(x, zero_point, axis, block_size)
    centred = x.to(torch.int32) if zero_point is None else x.to(torch.int32) - zero_point.to(torch.int32)
    return (centred.to(torch.float32) * scale.to(torch.float32)).to(scale.dtype)


def _along(x: Tensor, parameter: Any, axis: int, block_size: int) -> Any:
    """A quantisation parameter, one or one per slice of ``axis``, in a shape that broadcasts against x."""
    if block_size:
        raise NotImplementedError("quantisation in blocks")
    if parameter is None or parameter.numel() == 1:
        return parameter if parameter is None else parameter.reshape(())
    shape = [1] * x.dim()
    shape[axis] = -1
    return parameter.reshape(shape)


def fault_port(
    x: Tensor, site: Tensor, index: Tensor, and_mask: Tensor, or_mask: Tensor, xor_mask: Tensor, *, port: int
) -> tuple[Tensor, Tensor]:
    """The operator testbed.FaultPort: x with each fault of this port applied to its row, in the order of the K faults
    per row, and what each found, (B, K), 0 for faults of other ports."""
    word = _WORDS[x.element_size()]
    masks = [mask.view(torch.int32).to(word) for mask in (and_mask, or_mask, xor_mask)]
    of_port = site == port
    where = torch.where(of_port, index, 0)
    words, originals = _as_words(x.reshape(x.shape[0], -1)), []
    for k in range(site.shape[1]):
        column = slice(k, k + 1)
        current = words.gather(1, where[:, column])
        faulty = ((current & masks[0][:, column]) | masks[1][:, column]) ^ masks[2][:, column]
        words = words.scatter(1, where[:, column], torch.where(of_port[:, column], faulty, current))
        originals.append(torch.where(of_port[:, column], current, 0))
    return words.view(x.dtype).reshape(x.shape), torch.cat(originals, 1).view(x.dtype)
