"""The judge's compiled kernel (``kernels/judge.cpp``): what `compare` asks of a row, in one pass over it, the same bits.

It is used where its library is there and can answer; `compare` is the reference, and what is used otherwise.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from testbed.core.process import libraries

_OK = 0
SETS = ("baseline", "avx2", "avx512")  # instruction sets, by the kernel's number


class Judged(NamedTuple):
    """(rows,) each, masking_atol (rows, rtols)."""

    identical: NDArray[np.bool_]
    nonfinite: NDArray[np.bool_]
    mismatches: NDArray[np.int32]
    max_abs_diff: NDArray[np.float64]
    masking_atol: NDArray[np.float64]


def sets() -> tuple[str, ...]:
    """The instruction sets that the kernel can use here, the best last; none where its library was not built."""
    library = _library()
    return SETS[: library.testbed_judge_best_set() + 1] if library else ()


def judge(
    faulty: NDArray,
    golden: NDArray,
    golden_row: NDArray[np.int64] | None,
    atol: NDArray[np.float64],
    rtol: float,
    rtol_grid: Sequence[float],
    instruction_set: str | None = None,
) -> Judged | None:
    """None where the kernel cannot: no library, other types than float32, tolerances that are not finite and positive.

    faulty: (rows, ...). golden: (goldens, ...), of which ``golden_row`` (rows,) names each row's; None: the row of the same
    number. atol: (rows,). instruction_set: one of `sets`, the best unless said.
    """
    library = _library()
    shapes_fit = faulty.ndim > 0 and faulty.shape[1:] == golden.shape[1:]
    if library is None or not shapes_fit or faulty.dtype != np.float32 or golden.dtype != np.float32:
        return None
    rows, rtols = len(faulty), len(rtol_grid)
    faulty, golden = np.ascontiguousarray(faulty), np.ascontiguousarray(golden)
    bounds, grid = np.ascontiguousarray(atol, np.float64), np.array(rtol_grid, np.float64)
    places = None if golden_row is None else np.ascontiguousarray(golden_row, np.int64)
    judged = Judged(
        np.empty(rows, np.bool_),
        np.empty(rows, np.bool_),
        np.empty(rows, np.int32),
        np.empty(rows),
        np.empty((rows, rtols)),
    )
    status = library.testbed_judge_rows(
        faulty.ctypes.data,
        rows,
        faulty[:1].size if rows else golden[:1].size,
        golden.ctypes.data,
        len(golden),
        None if places is None else places.ctypes.data,
        bounds.ctypes.data,
        rtol,
        grid.ctypes.data,
        rtols,
        SETS.index(instruction_set or sets()[-1]),
        *(column.ctypes.data for column in judged),
    )
    return judged if status == _OK else None


def _library() -> ctypes.CDLL | None:
    return libraries.optional(libraries.CPU, _declare)


def _declare(library: ctypes.CDLL) -> None:
    rows, best = library.testbed_judge_rows, library.testbed_judge_best_set
    pointer, number, short, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_double
    rows.restype = best.restype = short
    rows.argtypes = [
        *(pointer, number, number),  # faulty, rows, elements
        *(pointer, number, pointer),  # golden, its rows, which of them
        *(pointer, real, pointer, short, short),  # atol, rtol, grid, rtols, instruction set
        *(pointer,) * len(Judged._fields),
    ]
