"""The geometry of a fault that strikes several words or bits: from a position's number to the flat indices it takes.

A pattern has a number of positions in a tensor, and each position is a set of elements. Positions are numbered from 0 and
all of one pattern are different sets, so that drawing a fault is drawing a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from testbed.core.site import Where


class Matrices(NamedTuple):
    """A tensor as the equal matrices that a GEMM reads or writes, one after another in its flat order."""

    matrices: int
    rows: int
    columns: int

    @classmethod
    def of(cls, shape: Sequence[int], where: Where) -> Matrices:
        """An activation's last two axes are a matrix, the axes before them number the matrices; a weight is one matrix of its
        first axis (outputs) by the rest (inputs). A vector is one row."""
        if len(shape) < 2:
            return cls(1, 1, math.prod(shape))
        if where == "weight":
            return cls(1, shape[0], math.prod(shape[1:]))
        return cls(math.prod(shape[:-2]), shape[-2], shape[-1])

    @property
    def elements(self) -> int:
        return self.matrices * self.rows * self.columns


class Pattern(Protocol):
    """How struck elements lie in a tensor."""

    @property
    def name(self) -> str: ...

    def positions(self, of: Matrices) -> int:
        """How many places there are for it; 0 where the tensor is too small."""
        ...

    def elements(self, of: Matrices, position: int) -> Sequence[int]:
        """Flat indices that it strikes there, ascending and distinct."""
        ...

    def most(self, of: Matrices) -> int:
        """Elements that it strikes at most."""
        ...


@dataclass(frozen=True)
class ElementPattern:
    """One element: the single fault."""

    name = "single"

    def positions(self, of: Matrices) -> int:
        return of.elements

    def elements(self, of: Matrices, position: int) -> range:
        return range(position, position + 1)

    def most(self, of: Matrices) -> int:
        return 1


@dataclass(frozen=True)
class BurstPattern:
    """Elements next to each other in flat order, over the ends of rows."""

    length: int

    @property
    def name(self) -> str:
        return f"burst-{self.length}"

    def positions(self, of: Matrices) -> int:
        return max(0, of.elements - self.length + 1)

    def elements(self, of: Matrices, position: int) -> range:
        return range(position, position + self.length)

    def most(self, of: Matrices) -> int:
        return min(self.length, of.elements)


@dataclass(frozen=True)
class RowPattern:
    """A row of one of the matrices: what a failing row of processing elements leaves."""

    name = "row"

    def positions(self, of: Matrices) -> int:
        return of.matrices * of.rows

    def elements(self, of: Matrices, position: int) -> range:
        return range(position * of.columns, (position + 1) * of.columns)

    def most(self, of: Matrices) -> int:
        return of.columns


@dataclass(frozen=True)
class ColumnPattern:
    """A column of one of the matrices."""

    name = "column"

    def positions(self, of: Matrices) -> int:
        return of.matrices * of.columns

    def elements(self, of: Matrices, position: int) -> range:
        matrix, column = divmod(position, of.columns)
        size = of.rows * of.columns
        return range(matrix * size + column, (matrix + 1) * size, of.columns)

    def most(self, of: Matrices) -> int:
        return of.rows


@dataclass(frozen=True)
class TilePattern:
    """What one unit of a tiled GEMM computes: tiles lie on a grid from the first element, and are cut at the edges."""

    rows: int
    columns: int

    @property
    def name(self) -> str:
        return f"tile-{self.rows}x{self.columns}"

    def _grid(self, of: Matrices) -> tuple[int, int]:
        return -(-of.rows // self.rows), -(-of.columns // self.columns)

    def positions(self, of: Matrices) -> int:
        return of.matrices * math.prod(self._grid(of))

    def elements(self, of: Matrices, position: int) -> list[int]:
        down, across = self._grid(of)
        matrix, tile = divmod(position, down * across)
        top, left = (self.rows * (tile // across), self.columns * (tile % across))
        bottom, right = min(top + self.rows, of.rows), min(left + self.columns, of.columns)
        first = matrix * of.rows * of.columns
        return [first + row * of.columns + column for row in range(top, bottom) for column in range(left, right)]

    def most(self, of: Matrices) -> int:
        return min(self.rows, of.rows) * min(self.columns, of.columns)


def windows(bits: Sequence[int], length: int) -> list[tuple[int, ...]]:
    """Runs of ``length`` adjacent bits, all of them among ``bits``; by ascending bit."""
    known = set(bits)
    runs = (tuple(range(first, first + length)) for first in sorted(known))
    return [run for run in runs if known.issuperset(run)]


def subset(items: int, size: int, number: int) -> tuple[int, ...]:
    """The subset of that number, 0 to C(items, size) - 1, among those of ``size`` of 0 .. items-1; ascending.

    The combinatorial number system (Knuth, TAOCP 4A, 7.2.1.3, Theorem L).
    """
    if not 0 <= number < math.comb(items, size):
        raise ValueError(f"there is no subset {number} of {size} of {items}")
    chosen = []
    for left in range(size, 0, -1):
        item = left - 1
        while math.comb(item + 1, left) <= number:
            item += 1
        number -= math.comb(item, left)
        chosen.append(item)
    return tuple(reversed(chosen))


def combinations(sizes: Sequence[int], parts: int) -> int:
    """Ways to take ``parts`` tensors and one element in each: the elementary symmetric polynomial of their sizes."""
    if parts > len(sizes):
        return 0
    return _symmetric(sizes, parts)[0][parts]


def combination(sizes: Sequence[int], parts: int, number: int) -> list[tuple[int, int]]:
    """(tensor, element) of the combination of that number, 0 to ``combinations(sizes, parts)`` - 1; tensors ascending."""
    ways = _symmetric(sizes, parts)
    if not 0 <= number < ways[0][parts]:
        raise ValueError(f"there is no combination {number} of {parts} of {len(sizes)} tensors")
    chosen = []
    for tensor, size in enumerate(sizes):
        if not parts:
            break
        without = ways[tensor + 1][parts]
        if number < without:
            continue
        element, number = divmod(number - without, ways[tensor + 1][parts - 1])
        assert element < size
        chosen.append((tensor, element))
        parts -= 1
    return chosen


def _symmetric(sizes: Sequence[int], parts: int) -> list[list[int]]:
    """[i][k]: the elementary symmetric polynomial of degree k of sizes[i:]."""
    ways = [[1] + [0] * parts]
    for size in reversed(sizes):
        after = ways[-1]
        ways.append([1] + [after[k] + size * after[k - 1] for k in range(1, parts + 1)])
    return ways[::-1]
