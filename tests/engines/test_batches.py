"""Whole batches: every row once, in order, and what fills the last batch is dropped."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from testbed.engines.batches import batches, pad_rows, pad_values, run_batched


@given(count=st.integers(1, 200), size=st.integers(1, 64))
def test_rows_come_once_and_in_order_in_batches_of_one_size(count: int, size: int) -> None:
    sizes = []

    def run(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        sizes.append(len(rows))
        return rows.astype(np.float32)[:, None] * 2

    np.testing.assert_array_equal(run_batched(run, count, size)[:, 0], 2 * np.arange(count))
    assert set(sizes) == {size}
    assert [batch.padded[len(batch.rows) :].tolist() for batch in batches(count, size)][-1] == [0] * (-count % size)


def test_a_full_batch_is_not_copied_and_an_overfull_one_is_an_error() -> None:
    rows = np.arange(4)
    assert pad_rows(rows, 4) is rows
    with pytest.raises(ValueError, match="negative"):
        pad_rows(rows, 3)


def test_what_fills_a_batch_is_chosen_by_the_caller() -> None:
    assert pad_rows(np.array([5, 6]), 4, filler=5).tolist() == [5, 6, 5, 5]
    values = np.arange(6, dtype=np.float16).reshape(2, 3)
    padded = pad_values(values, 3, filler=values[1])
    np.testing.assert_array_equal(padded, values[[0, 1, 1]])
    assert padded.dtype == np.float16
