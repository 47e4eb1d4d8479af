"""The compiled kernel of incremental outputs (``kernels/changes.cpp``): NumPy's bits, in one pass and without its loops.

It is used where its library is there; `attention_incremental` does the same without it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from testbed.core.arrays import Float32s
from testbed.core.process import libraries

_OK = 0


def add_changes(
    golden: Float32s,
    golden_row: NDArray[np.int64],
    down: Float32s,
    across: Float32s,
    drawn_from: Sequence[Float32s] | None = None,
) -> Float32s | None:
    """(m, N, D): ``golden + down (across - drawn_from)`` of each change; None where the library is not there, or where an
    array is not float32.

    golden: (goldens, N, D), of which ``golden_row`` (m,) names each change's; down: (m, N); across: (m, D); drawn_from: m
    arrays (N, D), or None for zeros. Raises ValueError for shapes or rows that do not fit.
    """
    library = _library()
    given = [golden, down, across, *(drawn_from or ())]
    if library is None or any(array.dtype != np.float32 for array in given):
        return None
    m, (tokens, width) = len(golden_row), golden.shape[1:]
    if down.shape != (m, tokens) or across.shape != (m, width):
        raise ValueError(f"changes of {down.shape} by {across.shape} do not fit {m} outputs of {tokens} x {width}")
    if drawn_from is not None and [array.shape for array in drawn_from] != [(tokens, width)] * m:
        raise ValueError(f"there must be {m} arrays of {tokens} x {width} to draw from")
    golden, down, across = (np.ascontiguousarray(array) for array in (golden, down, across))
    rows = np.ascontiguousarray(golden_row, np.int64)
    sources = None if drawn_from is None else [np.ascontiguousarray(array) for array in drawn_from]
    places = None if sources is None else np.array([array.ctypes.data for array in sources], np.uintp)
    outputs = np.empty((m, tokens, width), np.float32)
    status = library.testbed_add_changes(
        outputs.ctypes.data,
        m,
        tokens,
        width,
        golden.ctypes.data,
        len(golden),
        rows.ctypes.data,
        down.ctypes.data,
        across.ctypes.data,
        None if places is None else places.ctypes.data,
    )
    if status != _OK:
        raise ValueError(f"there are {len(golden)} golden outputs; not all of those that were named")
    return outputs


def _library() -> ctypes.CDLL | None:
    return libraries.optional(libraries.CPU, _declare)


def _declare(library: ctypes.CDLL) -> None:
    add, pointer, number = library.testbed_add_changes, ctypes.c_void_p, ctypes.c_int64
    add.restype = ctypes.c_int32
    add.argtypes = [pointer, *(number,) * 3, pointer, number, *(pointer,) * 4]
