"""The reference of what a fault does to a value, against arithmetic on single words with ``struct``."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.semantics import as_words, corrupt

words32 = st.integers(0, 2**32 - 1)
masks32 = st.tuples(words32, words32, words32)
LOUD = {"-0.0": 0x80000000, "denormal": 1, "inf": 0x7F800000, "signalling NaN": 0x7FA00001, "quiet NaN": 0xFFC12345}


def float_of(word: int) -> float:
    return struct.unpack("<f", struct.pack("<I", word))[0]


def word_after(word: int, masks: tuple[int, int, int]) -> int:
    and_mask, or_mask, xor_mask = masks
    return ((word & and_mask) | or_mask) ^ xor_mask


@given(words32, masks32)
def test_bits_of_a_float_are_what_struct_says(word: int, masks: tuple[int, int, int]) -> None:
    value = np.frombuffer(struct.pack("<I", word), np.float32)
    assert corrupt(value, *masks).tobytes() == struct.pack("<I", word_after(word, masks))


@given(st.floats(width=32, allow_nan=False), st.integers(0, 31))
def test_values_of_a_float_are_what_struct_says(value: float, bit: int) -> None:
    word = struct.unpack("<I", struct.pack("<f", value))[0]
    found = corrupt(np.array([value], np.float32), 2**32 - 1, 0, 1 << bit)[0]
    np.testing.assert_equal(float(found), float_of(word ^ (1 << bit)))


@pytest.mark.parametrize("word", LOUD.values(), ids=LOUD.keys())
def test_special_values_go_through_untouched(word: int) -> None:
    value = np.array([word], np.uint32).view(np.float32)
    assert as_words(corrupt(value, 2**32 - 1, 0, 0))[0] == word
    assert as_words(corrupt(np.ones(1, np.float32), 0, word, 0))[0] == word


@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.uint8, np.int32, np.float32])
@given(data=st.data())
def test_every_width_is_changed_in_its_own_word(dtype: type, data: st.DataObject) -> None:
    bits = 8 * np.dtype(dtype).itemsize
    word = data.draw(st.integers(0, 2**bits - 1))
    masks = data.draw(st.tuples(*[st.integers(0, 2**bits - 1)] * 3))
    value: np.ndarray = np.array([word], f"uint{bits}").view(dtype)
    found = corrupt(value, *masks)
    assert found.dtype == dtype
    assert int(as_words(found)[0]) == word_after(word, masks)


def test_masks_broadcast_and_the_input_is_left_alone() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    before = values.copy()
    xor = np.array([[1 << 31], [0]], np.uint32)
    np.testing.assert_array_equal(corrupt(values, 2**32 - 1, 0, xor), [[-0.0, -1, -2], [3, 4, 5]])
    np.testing.assert_array_equal(values, before)


def test_a_view_with_strides_is_changed_by_position() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4).T
    np.testing.assert_array_equal(corrupt(values, 2**32 - 1, 0, 1 << 31), -values)


def test_words_share_the_values_memory() -> None:
    values = np.zeros(2, np.float32)
    as_words(values)[1] = 0x3F800000
    assert values.tolist() == [0.0, 1.0]
