"""Is an output the golden one? Elementwise comparison at an absolute and a relative tolerance.

An element is inside the tolerance iff ``|y - g| <= atol + rtol * |g|`` (as numpy.isclose has it, evaluated in
float64). NaN on either side is a mismatch; infinities match only their equals. Axis 0 is always rows: one output
(image) each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from testbed.core.errors import UsageError

_WORDS = {2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass(frozen=True)
class Tolerance:
    """Bounds of ``|y - g| <= atol + rtol * |g|``. Raises UsageError unless both are finite and not negative."""

    atol: float = 1e-6
    rtol: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("atol", "rtol"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{name} must be a finite number, 0 or more, not {value}")


def by_row(values: NDArray) -> NDArray:
    """(rows, elements) of (rows, ...), also when there are no rows."""
    return values.reshape(len(values), math.prod(values.shape[1:]))


class Deviation:
    """``|faulty - golden|``, computed once and asked several questions.

    faulty, golden: (rows, ...) of one shape, any float dtype. Raises ValueError if the shapes differ.
    """

    def __init__(self, faulty: ArrayLike, golden: ArrayLike) -> None:
        with np.errstate(invalid="ignore"):  # a signalling NaN may go quiet
            y, g = np.asarray(faulty, np.float64), np.asarray(golden, np.float64)
        if y.shape != g.shape or not y.ndim:
            raise ValueError(f"outputs of shape {y.shape} cannot be compared with goldens of shape {g.shape}")
        y, g = by_row(y), by_row(g)
        # distance: NaN where no tolerance can make the two agree, 0 between equal infinities; scale: finite.
        scale = np.abs(g)
        with np.errstate(invalid="ignore", over="ignore"):
            distance = np.abs(y - g)
            finite = math.isfinite(distance.sum() + scale.sum())
        if not finite:
            distance[y == g] = 0.0
            distance[np.isinf(distance)] = np.nan
            scale[~np.isfinite(scale)] = 0.0
        self._distance, self._scale, self._shape = distance, scale, np.shape(faulty)

    def mismatch(self, atol: ArrayLike, rtol: float) -> NDArray[np.bool_]:
        """(rows, ...) True where an element is outside; see `mismatch`."""
        return self._outside(atol, self._slack(rtol)).reshape(self._shape)

    def max_abs(self) -> NDArray[np.float64]:
        """(rows,) the largest distance; see `max_abs_diff`."""
        largest = self._distance.max(axis=1, initial=0.0)
        largest[np.isnan(largest)] = np.inf
        return largest

    def smallest_atol(self, rtol: float) -> NDArray[np.float64]:
        """(rows,) the smallest absolute tolerance that masks the row; see `smallest_atol`."""
        if rtol == 0:
            return self.max_abs()
        slack = self._slack(rtol)
        excess = self._distance - slack
        most = excess.max(axis=1, initial=0.0)
        # An element needs its excess to within the rounding of its distance: only those near the largest can decide.
        rounding = 2.0**-50 * self._distance.max(axis=1, initial=0.0)
        near = np.where(most > 0, most - rounding, np.inf)
        rows, columns = np.nonzero(excess >= near[:, None])
        atol = np.zeros(len(most))
        np.maximum.at(atol, rows, _smallest_addend(self._distance[rows, columns], slack[rows, columns]))
        atol[np.isnan(most)] = np.inf
        return atol

    def _slack(self, rtol: float) -> NDArray[np.float64]:
        with np.errstate(over="ignore"):
            return rtol * self._scale

    def _outside(self, atol: ArrayLike, slack: NDArray[np.float64]) -> NDArray[np.bool_]:
        bound = np.asarray(atol, np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            return ~(self._distance <= (bound[:, None] if bound.ndim else bound) + slack)


def _smallest_addend(distance: NDArray[np.float64], slack: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) the smallest float64 ``a >= 0`` with ``fl(a + slack) >= distance``; both (n,), finite distances.

    ``fl(a + s)`` rounds up to ``d`` from half the gap below it, so the threshold is ``d - gap/2 - s``, not ``d - s``;
    under cancellation they differ by many units in the last place. The error of ``d - s`` is kept (Knuth's two-sum),
    which makes the threshold right to a few units; those are walked, asking the comparison itself.
    """
    difference = distance - slack
    back = difference + slack
    error = (distance - back) + (slack - (back - difference))
    half_gap = (distance - np.nextafter(distance, 0.0)) / 2
    atol = np.where(distance <= slack, 0.0, np.maximum(difference + (error - half_gap), 0.0))
    while (short := atol + slack < distance).any():
        atol[short] = np.nextafter(atol[short], np.inf)
    while (enough := (atol > 0) & (np.nextafter(atol, 0.0) + slack >= distance)).any():
        atol[enough] = np.nextafter(atol[enough], 0.0)
    return atol


def mismatch(faulty: ArrayLike, golden: ArrayLike, atol: ArrayLike, rtol: float) -> NDArray[np.bool_]:
    """True where an element is outside ``atol + rtol * |golden|``.

    faulty, golden: (rows, ...), any float dtype; compared in float64. atol: one number, or (rows,). Returns the shape
    of faulty. NaN on either side is a mismatch, and so are unequal infinities; equal infinities match.
    """
    return Deviation(faulty, golden).mismatch(atol, rtol)


def smallest_atol(faulty: ArrayLike, golden: ArrayLike, rtol: float) -> NDArray[np.float64]:
    """(rows,) the smallest atol >= 0 at which no element of the row is a `mismatch`; inf where there is none.

    Exact: the row is masked at the value returned, and not at the next smaller float64. So ``smallest_atol <= atol``
    asks the same as ``not mismatch(..., atol, rtol).any()`` for every atol, and a sweep over atol needs no outputs.
    """
    return Deviation(faulty, golden).smallest_atol(rtol)


def max_abs_diff(faulty: ArrayLike, golden: ArrayLike) -> NDArray[np.float64]:
    """(rows,) the largest ``|faulty - golden|``; inf where either holds a NaN, or an infinity the other does not."""
    return Deviation(faulty, golden).max_abs()


def identical(faulty: NDArray, golden: NDArray) -> NDArray[np.bool_]:
    """(rows,) True where every bit of the row is equal: -0.0 is not 0.0, and NaN payloads count.

    faulty, golden: (rows, ...) of one shape and one float dtype; ValueError otherwise.
    """
    if faulty.shape != golden.shape or faulty.dtype != golden.dtype:
        raise ValueError(
            f"{faulty.dtype} outputs of shape {faulty.shape} cannot be compared bit by bit with "
            f"{golden.dtype} goldens of shape {golden.shape}"
        )
    word = _WORDS[faulty.dtype.itemsize]
    same = np.ascontiguousarray(faulty).view(word) == np.ascontiguousarray(golden).view(word)
    return np.logical_and.reduce(by_row(same), axis=1)
