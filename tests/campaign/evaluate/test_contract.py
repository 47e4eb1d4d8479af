"""Pieces of evaluated strikes: joined, nothing is lost, moved or held back for longer than asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.campaign.evaluate.contract import Evaluated, gathered


def chunk(start: int, size: int) -> Evaluated:
    rows = np.arange(start, start + size)
    outputs = np.repeat(rows[:, None], 4, axis=1).astype(np.float32)
    return Evaluated(rows, outputs, (rows % 5).astype(np.int8), rows.astype(np.float32))


@given(st.lists(st.integers(0, 5), max_size=12), st.integers(1, 200))
def test_the_same_injections_in_larger_parts(sizes: list[int], least_bytes: int) -> None:
    starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    chunks = [chunk(start, size) for start, size in zip(starts, sizes, strict=False)]
    found = list(gathered(iter(chunks), least_bytes))
    for field in fields(Evaluated):
        parts = [getattr(one, field.name) for one in found]
        wanted = [getattr(one, field.name) for one in chunks]
        if wanted:
            np.testing.assert_array_equal(np.concatenate(parts), np.concatenate(wanted))
            assert {part.dtype for part in parts} == {part.dtype for part in wanted}
    assert all(one.outputs.nbytes >= least_bytes for one in found[:-1])
    assert all(one.outputs.nbytes < least_bytes + 5 * 16 for one in found)


def test_a_large_part_is_passed_on_before_the_next_is_made() -> None:
    made = []

    def chunks() -> Iterator[Evaluated]:
        for start in (0, 4):
            made.append(start)
            yield chunk(start, 4)

    assert next(gathered(chunks(), 64)).rows.tolist() == [0, 1, 2, 3]
    assert made == [0]


def test_what_fails_in_the_middle_fails() -> None:
    def chunks() -> Iterator[Evaluated]:
        yield chunk(0, 1)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match=r"^no$"):
        list(gathered(chunks(), 64))
