"""Batches of one frozen size: an engine runs whole batches only, so the last one is filled with rows that nobody reads.

A batch of another size may take other kernels, whose rounding differs; and a fault's row must not depend on how many
others there are. So every engine of a campaign is run at its frozen batch size, here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Batch(NamedTuple):
    """The rows of one batch. rows: (n,) what is asked for; padded: (size,) the same, and row 0 (or the first of them)
    until the batch is full."""

    rows: NDArray[np.int64]
    padded: NDArray[np.int64]


def pad_rows(rows: NDArray[np.int64], size: int, filler: int = 0) -> NDArray[np.int64]:
    """(size,): the row numbers, and ``filler`` until the batch is full. rows: (n,) of at most ``size``."""
    idle = size - len(rows)
    return np.concatenate([rows, np.full(idle, filler, np.int64)]) if idle else rows


def pad_values(values: NDArray, size: int, filler: NDArray) -> NDArray:
    """(size, ...): the values, and ``filler`` (...) until the batch is full. values: (n, ...) of at most ``size``."""
    idle = size - len(values)
    return np.concatenate([values, np.repeat(filler[None], idle, axis=0)]) if idle else values


def batches(count: int, size: int) -> Iterator[Batch]:
    """Rows 0 to ``count`` in whole batches."""
    for start in range(0, count, size):
        rows = np.arange(start, min(start + size, count))
        yield Batch(rows, pad_rows(rows, size))


def run_batched(run: Callable[[NDArray[np.int64]], NDArray[np.float32]], count: int, size: int) -> NDArray[np.float32]:
    """(count, ...): the outputs of rows 0 to ``count``. run: (size,) row numbers -> (size, ...) their outputs."""
    return np.concatenate([run(batch.padded)[: len(batch.rows)] for batch in batches(count, size)])
