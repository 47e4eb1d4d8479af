"""The native libraries that work on host memory: faults into a buffer, and the ONNX Runtime op ``testbed::FaultPort``."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from testbed.core.errors import EngineError
from testbed.core.process import libraries

_OK = 0


def available() -> tuple[bool, str]:
    """Whether ``apply_faults`` works, and its library's file, or why not and what to do."""
    try:
        return True, str(libraries.load(libraries.CPU)[1])
    except EngineError as error:
        return False, str(error)


def apply_faults(
    buffer: NDArray, indices: ArrayLike, and_masks: ArrayLike, or_masks: ArrayLike, xor_masks: ArrayLike
) -> None:
    """Applies faults to ``buffer`` in place, in their order: ``((v & and) | or) ^ xor`` on the value at each index.

    buffer: any shape, 8-, 16- or 32-bit dtype, C-contiguous and writeable. indices: (N,) integers, flat, 0 to size - 1.
    Masks: scalars or (N,), cut to the value's width. Raises EngineError when the kernel is not available or a request
    is wrong; the buffer is then unchanged.
    """
    inject = libraries.load(libraries.CPU)[0].testbed_apply_faults
    if not (buffer.flags.c_contiguous and buffer.flags.writeable):
        raise EngineError("faults act in place: the buffer must be C-contiguous and writeable")
    check_width(buffer.dtype)
    places = fault_indices(indices)
    outside = places[(places < 0) | (places >= buffer.size)]
    if outside.size:
        raise EngineError(f"no element {outside[0]} in a buffer of {buffer.size}; nothing was changed")
    masks = [mask_words(mask, places.shape) for mask in (and_masks, or_masks, xor_masks)]
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    inject.restype = ctypes.c_int32
    inject.argtypes = [
        *(pointer, number, ctypes.c_int32),  # buffer, elements, width in bytes
        *(number, pointer, pointer, pointer, pointer),  # faults, indices, and, or, xor
    ]
    status = inject(
        buffer.ctypes.data,
        buffer.size,
        buffer.dtype.itemsize,
        places.size,
        places.ctypes.data,
        *(mask.ctypes.data for mask in masks),
    )
    if status != _OK:
        raise EngineError(f"the native kernel refused the faults (status {status}); nothing was changed")


def op_library() -> Path | None:
    """The file to give to ``SessionOptions.register_custom_ops_library``; None where the op is not available."""
    try:
        return libraries.load(libraries.ONNXRUNTIME)[1]
    except EngineError:
        return None


def op_available() -> tuple[bool, str]:
    """Whether ONNX Runtime can run ``testbed::FaultPort``, and its library's file, or why not and what to do."""
    try:
        return True, str(libraries.load(libraries.ONNXRUNTIME)[1])
    except EngineError as error:
        return False, str(error)


def op_runs_on_cuda() -> bool:
    """Whether the op has a kernel for ONNX Runtime's CUDA provider. Without one that provider would have the port's
    tensor copied to the host and back."""
    return op_library() is not None and bool(libraries.load(libraries.ONNXRUNTIME)[0].testbed_op_has_cuda())


def check_width(dtype: np.dtype) -> None:
    if dtype.itemsize not in (1, 2, 4):
        raise EngineError(f"faults act on 8-, 16- and 32-bit values, not on {dtype}")


def fault_indices(indices: ArrayLike) -> NDArray[np.int64]:
    """Indices as an array, at least one-dimensional. Raises EngineError for what are no integers."""
    places = np.atleast_1d(np.asarray(indices))
    if places.size and places.dtype.kind not in "iu":
        raise EngineError(f"fault indices must be integers, not {places.dtype}")
    return np.ascontiguousarray(places, np.int64)


def mask_words(mask: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.uint32]:
    """One word per fault. Raises EngineError where the mask is neither a scalar nor of that shape."""
    try:
        return np.ascontiguousarray(np.broadcast_to(np.asarray(mask).astype(np.uint32), shape))
    except ValueError as error:
        raise EngineError(f"masks of shape {np.shape(mask)} do not fit {shape[0]} fault indices") from error
