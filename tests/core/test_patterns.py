"""Geometry of patterns, against NumPy slices of the tensor itself."""

from __future__ import annotations

import math
from itertools import combinations as all_subsets
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from testbed.core.patterns import (
    BurstPattern,
    ColumnPattern,
    ElementPattern,
    Matrices,
    Pattern,
    RowPattern,
    TilePattern,
    combination,
    combinations,
    subset,
    windows,
)

shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)
sizes = st.integers(1, 6)
patterns = st.one_of(
    st.sampled_from([ElementPattern(), RowPattern(), ColumnPattern()]),
    st.builds(BurstPattern, sizes),
    st.builds(TilePattern, sizes, sizes),
)


def slices(flat: NDArray[np.int64], shape: tuple[int, ...], pattern: Pattern) -> list[list[int]]:
    """Every set of elements the pattern can strike in an activation of this shape, by slicing."""
    matrices = flat.reshape(shape).reshape(-1, shape[-2] if len(shape) > 1 else 1, shape[-1])
    if isinstance(pattern, ElementPattern):
        return [[int(i)] for i in flat]
    if isinstance(pattern, BurstPattern):
        return [flat[i : i + pattern.length].tolist() for i in range(len(flat) - pattern.length + 1)]
    if isinstance(pattern, RowPattern):
        down, across = 1, shape[-1]
    elif isinstance(pattern, ColumnPattern):
        down, across = matrices.shape[1], 1
    else:
        assert isinstance(pattern, TilePattern)
        down, across = pattern.rows, pattern.columns
    return [
        sorted(matrix[top : top + down, left : left + across].ravel().tolist())
        for matrix in matrices
        for top in range(0, matrices.shape[1], down)
        for left in range(0, matrices.shape[2], across)
    ]


@given(shapes, patterns)
def test_positions_are_the_slices_of_the_tensor(shape: tuple[int, ...], pattern: Pattern) -> None:
    of = Matrices.of(shape, "activation")
    expected = slices(np.arange(math.prod(shape)), shape, pattern)
    found = [list(pattern.elements(of, position)) for position in range(pattern.positions(of))]
    assert sorted(found) == sorted(expected)
    assert len({tuple(faulty) for faulty in found}) == len(found)
    assert all(faulty == sorted(set(faulty)) for faulty in found)
    if found:
        assert pattern.most(of) == max(map(len, found))


@given(st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple))
def test_a_weight_is_the_matrix_of_its_outputs_by_its_inputs(shape: tuple[int, ...]) -> None:
    of = Matrices.of(shape, "weight")
    weight = np.arange(math.prod(shape)).reshape(shape[0], -1)
    rows = [list(RowPattern().elements(of, position)) for position in range(RowPattern().positions(of))]
    columns = [list(ColumnPattern().elements(of, position)) for position in range(ColumnPattern().positions(of))]
    assert rows == weight.tolist()
    assert columns == weight.T.tolist()


def test_names_tell_the_size() -> None:
    named: list[Pattern] = [ElementPattern(), BurstPattern(4), RowPattern(), ColumnPattern(), TilePattern(2, 16)]
    assert [pattern.name for pattern in named] == ["single", "burst-4", "row", "column", "tile-2x16"]


def test_a_tensor_that_is_too_small_for_a_burst_has_no_place_for_it() -> None:
    assert BurstPattern(4).positions(Matrices.of((3,), "activation")) == 0


@given(st.integers(0, 8), st.data())
def test_every_subset_has_a_number_and_every_number_a_subset(items: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, items))
    found = [subset(items, size, number) for number in range(math.comb(items, size))]
    assert sorted(found) == list(all_subsets(range(items), size))
    with pytest.raises(ValueError, match="no subset"):
        subset(items, size, math.comb(items, size))


def test_the_last_subset_of_many_bits_is_found_at_once() -> None:
    assert subset(32, 16, math.comb(32, 16) - 1) == tuple(range(16, 32))


@given(st.sets(st.integers(0, 12), max_size=10), st.integers(1, 4))
def test_windows_are_the_runs_of_adjacent_bits(bits: set[int], length: int) -> None:
    runs = [run for run in all_subsets(sorted(bits), length) if run[-1] - run[0] == length - 1]
    assert windows(sorted(bits), length) == runs


@given(st.lists(st.integers(1, 3), min_size=1, max_size=5), st.integers(1, 4))
def test_combinations_take_one_element_of_each_of_several_tensors(sizes: list[int], parts: int) -> None:
    expected = [
        list(zip(chosen, elements, strict=True))
        for chosen in all_subsets(range(len(sizes)), parts)
        for elements in product(*(range(sizes[tensor]) for tensor in chosen))
    ]
    count = combinations(sizes, parts)
    assert count == len(expected)
    assert sorted(combination(sizes, parts, number) for number in range(count)) == sorted(expected)
    with pytest.raises(ValueError, match="no combination"):
        combination(sizes, parts, count)
