"""The native fault kernel (``kernels/``), loaded with ctypes where it was built. Nothing here needs it to be there."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from testbed.core.errors import EngineError

ABI_VERSION = 1
_SUFFIX = {"win32": ".dll"}.get(sys.platform, ".so")  # CMake modules end in .so on macOS too
_FILE = f"testbed_cpu{_SUFFIX}"
_OK = 0


def available() -> tuple[bool, str]:
    """Whether the kernel can be used, and its file, or why not and what to do."""
    try:
        return True, str(_library()[1])
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
    library, _ = _library()
    if not (buffer.flags.c_contiguous and buffer.flags.writeable):
        raise EngineError("faults act in place: the buffer must be C-contiguous and writeable")
    if buffer.dtype.itemsize not in (1, 2, 4):
        raise EngineError(f"faults act on 8-, 16- and 32-bit values, not on {buffer.dtype}")
    places = np.atleast_1d(np.asarray(indices))
    if places.size and places.dtype.kind not in "iu":
        raise EngineError(f"fault indices must be integers, not {places.dtype}")
    outside = places[(places < 0) | (places >= buffer.size)]
    if outside.size:
        raise EngineError(f"no element {outside[0]} in a buffer of {buffer.size}; nothing was changed")
    places = np.ascontiguousarray(places, np.int64)
    masks = [_mask_array(mask, places.shape) for mask in (and_masks, or_masks, xor_masks)]
    status = library.testbed_apply_faults(
        buffer.ctypes.data,
        buffer.size,
        buffer.dtype.itemsize,
        places.size,
        places.ctypes.data,
        *(mask.ctypes.data for mask in masks),
    )
    if status != _OK:
        raise EngineError(f"the native kernel refused the faults (status {status}); nothing was changed")


def _mask_array(mask: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.uint32]:
    try:
        return np.ascontiguousarray(np.broadcast_to(np.asarray(mask).astype(np.uint32), shape))
    except ValueError as error:
        raise EngineError(f"masks of shape {np.shape(mask)} do not fit {shape[0]} fault indices") from error


def _candidates() -> list[Path]:
    """Where the library may lie: where TESTBED_NATIVE says; else in the package; else in a checkout's build folder."""
    named = os.environ.get("TESTBED_NATIVE")
    if named:
        path = Path(named)
        return [path / _FILE if path.is_dir() else path]
    package = find_spec("testbed")
    # An editable install has two folders: the sources, and where CMake installed.
    packages = [Path(folder) for folder in (package and package.submodule_search_locations) or ()]
    return [p / "_native" / _FILE for p in packages] + [p.parent / "build" / _FILE for p in packages]


def _library() -> tuple[ctypes.CDLL, Path]:
    return _load(*_candidates())


@cache
def _load(*candidates: Path) -> tuple[ctypes.CDLL, Path]:
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        where = f" at {candidates[0]} (TESTBED_NATIVE)" if len(candidates) == 1 else ""
        raise EngineError(f"the native kernel was not built{where}; install testbed again with a C++ compiler on PATH")
    try:
        library = ctypes.CDLL(str(found))
        version = library.testbed_abi_version()
        library.testbed_apply_faults.restype = ctypes.c_int32
    except (OSError, AttributeError) as error:
        raise EngineError(f"{found} is not the testbed's native kernel ({error}); install testbed again") from error
    if version != ABI_VERSION:
        raise EngineError(f"{found} has ABI version {version}, not {ABI_VERSION}; install testbed again")
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.testbed_apply_faults.argtypes = [
        *(pointer, number, ctypes.c_int32),  # buffer, elements, width in bytes
        *(number, pointer, pointer, pointer, pointer),  # faults, indices, and, or, xor
    ]
    return library, found
