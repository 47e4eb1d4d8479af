"""A fingerprint changes with every bit of a row and of the summary, and with nothing that a clock or an order decides."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.characterisation.fingerprint import differences, of_column, of_summary, of_table

ROWS: dict[str, pa.Array] = {
    "fault_id": pa.array([0, 0, 1, 2], pa.int64()),
    "image_id": pa.array(["b", "a", "a", "a"]).dictionary_encode(),
    "xor_mask": pa.array([1, 1, 1 << 31, 4], pa.uint32()),
    "block": pa.array([0, 0, None, 2], pa.int16()),
    "faulty_value": pa.array(np.array([0.0, np.inf, np.nan, 1.5], np.float32)),
    "outcome": pa.array(["masked", "sdc1", None, "due"]).dictionary_encode(),
    "sdc5": pa.array([True, None, False, False]),
    "logits": pa.array([[1.0, 2.0], [1.0], None, []], pa.list_(pa.float32())),
}
TABLE = pa.table(ROWS)
KEYS = ["fault_id", "image_id"]

OTHER_VALUES = {
    "xor_mask": pa.array([1, 1, (1 << 31) + 1, 4], pa.uint32()),  # one bit of a mask
    "block": pa.array([0, 0, 0, 2], pa.int16()),  # null is not 0
    "faulty_value": pa.array(np.array([-0.0, np.inf, np.nan, 1.5], np.float32)),
    "outcome": pa.array(["masked", "sdc1", None, "sdc1"]).dictionary_encode(),
    "sdc5": pa.array([True, False, False, False]),
    "logits": pa.array([[1.0], [2.0, 1.0], None, []], pa.list_(pa.float32())),  # the same numbers, otherwise divided
}
SAME_VALUES_OTHER_TYPES = {
    "xor_mask": pa.uint64(),
    "block": pa.int32(),
    "faulty_value": pa.float64(),
    "outcome": pa.string(),
}


def changed_columns(table: pa.Table) -> list[str]:
    changed = differences(of_table(TABLE, KEYS), of_table(table, KEYS))
    return [line.split(":")[0] for line in changed]


def with_column(name: str, values: pa.Array) -> pa.Table:
    return TABLE.set_column(TABLE.column_names.index(name), name, values)


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_another_value_is_another_fingerprint_of_its_column_alone(name: str) -> None:
    assert changed_columns(with_column(name, OTHER_VALUES[name])) == [f"columns.{name}"]


@pytest.mark.parametrize("name", SAME_VALUES_OTHER_TYPES)
def test_another_type_is_another_fingerprint(name: str) -> None:
    assert changed_columns(with_column(name, TABLE[name].cast(SAME_VALUES_OTHER_TYPES[name]))) == [f"columns.{name}"]


def test_every_single_bit_of_a_float_counts() -> None:
    words = np.array([0x7FC00000, 0x3F800000], np.uint32)  # a NaN, 1.0
    found = {of_column(pa.chunked_array([words.view(np.float32)]))}
    for place in range(2):
        for bit in range(32):
            flipped = words.copy()
            flipped[place] ^= np.uint32(1 << bit)
            found.add(of_column(pa.chunked_array([flipped.view(np.float32)])))
    assert len(found) == 65


@pytest.mark.parametrize(
    "same",
    [
        lambda: TABLE.take([3, 1, 0, 2]),  # rows in another order
        lambda: pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)]),  # other chunks
        lambda: with_column("outcome", pa.array(["due", "masked", "sdc1", None, "due"]).dictionary_encode()[1:]),
    ],
)
def test_order_chunks_and_dictionaries_do_not_count(same: Callable[[], pa.Table]) -> None:
    assert changed_columns(same()) == []


def test_missing_and_further_rows_and_columns_are_told() -> None:
    assert "rows" in changed_columns(TABLE.slice(1))
    assert changed_columns(TABLE.drop_columns("sdc5")) == ["columns.sdc5"]
    assert changed_columns(TABLE.append_column("weight", pa.array([1.0] * 4))) == ["columns.weight"]


SUMMARY: dict[str, Any] = {
    "rows": 4,
    "wall_seconds": 1.5,
    "timing": [{"stage": "train", "seconds": 3.0}],
    "strata": [{"site": "head", "n": 2, "rates": {"sdc1": 0.1 + 0.2}}],
}


def test_every_number_of_the_summary_counts_but_those_of_a_clock() -> None:
    def changed(**values: Any) -> list[str]:
        lines = differences(of_summary(SUMMARY), of_summary(SUMMARY | values))
        return [line.split(":")[0] for line in lines]

    assert changed(wall_seconds=9.0, timing=[{"stage": "train", "seconds": 4.0}]) == []
    assert changed(timing=[{"stage": "golden", "seconds": 3.0}]) == ["timing"]
    assert changed(strata=[{"site": "head", "n": 2, "rates": {"sdc1": 0.3}}]) == ["strata"]  # the last bit of a rate
    assert changed(rows=5, notes=[]) == ["rows", "notes"]
    assert of_summary(json.loads(json.dumps(SUMMARY, sort_keys=True))) == of_summary(SUMMARY)
