"""A check: a linear combination of sums that is 0 without a fault, but for rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.core.arrays import Float64s
from testbed.protect.checks.sums import Vector, Vectors

ROUNDING = "rounding"
"""Kind of the check of what a tensor is rounded to, element by element."""
RECOMPUTED = "recomputed activation"
"""Kind of the check of an activation function that is computed a second time."""


@dataclass(frozen=True)
class Term:
    """``coefficients``: (size,) or one for all, of ``vector``."""

    vector: Vector
    coefficients: Float64s | float

    @property
    def column(self) -> Float64s:
        """(size,) coefficients."""
        return np.broadcast_to(np.asarray(self.coefficients, np.float64), (self.vector.size,))


@dataclass(frozen=True)
class Statistics:
    """What a rounding bound of a product needs: its sizes, and tensors whose extremes and means are measured.

    inner: length of the sums that make an element; elements: of the output, per image; taken: tensors that are measured;
    weight_deviation: bound on the standard deviation of a stored operand, None where both are measured.
    """

    inner: int
    elements: int
    taken: tuple[str, ...]
    weight_deviation: float | None = None


@dataclass(frozen=True)
class Relation:
    """One check. ``terms`` makes its terms once all sums over fewer axes are there; ``needs`` asks for those.

    covers: tensors in which a fault is seen. is_range: the value is not 0, but where it was on real images. bound: (low,
    high), fixed by theory; None where it is measured. allowance: how far the value may lie from 0 but for rounding.
    """

    name: str
    kind: str
    covers: tuple[str, ...]
    needs: Callable[[Vectors], object]
    terms: Callable[[Vectors], list[Term]]
    constant: float = 0.0
    statistics: Statistics | None = None
    is_range: bool = False
    bound: tuple[float, float] | None = None
    allowance: float = 0.0


def matrix_of(relations: list[list[Term]], vectors: list[Vector]) -> NDArray[np.float32]:
    """(all sums, checks): what the concatenated sums are multiplied by."""
    starts = dict(zip((v.name for v in vectors), np.cumsum([0, *(v.size for v in vectors)]), strict=False))
    matrix = np.zeros((sum(v.size for v in vectors), len(relations)))
    for column, terms in enumerate(relations):
        for term in terms:
            start = starts[term.vector.name]
            matrix[start : start + term.vector.size, column] += term.column
    return matrix.astype(np.float32)
