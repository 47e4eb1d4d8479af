"""The masks of each fault operation, on whole words of every format."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.core.errors import UsageError
from testbed.core.fault import OPS, Masks, Op, masks_for, masks_for_bits, then
from testbed.core.formats import FORMATS, FP32, Format


def applied(masks: Masks, word: int) -> int:
    return ((word & masks.and_mask) | masks.or_mask) ^ masks.xor_mask


@st.composite
def places(draw: st.DrawFn) -> tuple[Format, int, int]:
    """A format, one of its words, one of its bits."""
    fmt = FORMATS[draw(st.sampled_from(sorted(FORMATS)))]
    return fmt, draw(st.integers(0, 2**fmt.bits - 1)), draw(st.integers(0, fmt.bits - 1))


@given(places())
def test_a_flip_changes_one_bit_and_a_second_flip_undoes_it(place: tuple[Format, int, int]) -> None:
    fmt, word, bit = place
    masks = masks_for("flip", fmt, bit)
    assert applied(masks, word) == word ^ (1 << bit)
    assert applied(masks, applied(masks, word)) == word


@given(places(), st.sampled_from(["stuck0", "stuck1"]))
def test_stuck_at_sets_the_bit_once_and_for_all(place: tuple[Format, int, int], op: Op) -> None:
    fmt, word, bit = place
    level = int(op == "stuck1")
    masks = masks_for(op, fmt, bit)
    once = applied(masks, word)
    assert once >> bit & 1 == level
    assert once | (1 << bit) == word | (1 << bit)  # no other bit moved
    assert applied(masks, once) == once


@given(places(), st.integers(0, 2**64))
def test_random_sets_the_whole_word_whatever_was_there(place: tuple[Format, int, int], value: int) -> None:
    fmt, word, _ = place
    assert applied(masks_for("random", fmt, value=value), word) == value % 2**fmt.bits


@given(places())
def test_identity_changes_nothing(place: tuple[Format, int, int]) -> None:
    fmt, word, _ = place
    assert applied(masks_for("identity", fmt), word) == word


@given(places(), st.sampled_from([*OPS, "identity"]))
def test_masks_fit_the_word(place: tuple[Format, int, int], op: Op) -> None:
    fmt, word, bit = place
    assert all(0 <= mask < 2**fmt.bits for mask in masks_for(op, fmt, bit, word))


@pytest.mark.parametrize("op", ["flip", "stuck0", "stuck1"])
@pytest.mark.parametrize("bit", [None, -1, 32])
def test_a_missing_or_impossible_bit_is_refused(op: Op, bit: int | None) -> None:
    with pytest.raises(UsageError, match="bit from 0 to 31 of fp32"):
        masks_for(op, FP32, bit)


def test_an_unknown_operation_is_refused_naming_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'melt'.*flip, stuck0, stuck1, random"):
        masks_for("melt", FP32, 3)  # type: ignore[arg-type]


@given(places(), st.data())
def test_masks_of_several_bits_change_them_all(place: tuple[Format, int, int], data: st.DataObject) -> None:
    fmt, word, _ = place
    op: Op = data.draw(st.sampled_from(["flip", "stuck0", "stuck1"]))
    bits = data.draw(st.sets(st.integers(0, fmt.bits - 1)))
    expected = word
    for bit in bits:
        expected = applied(masks_for(op, fmt, bit), expected)
    assert applied(masks_for_bits(op, fmt, sorted(bits)), word) == expected


words = st.integers(0, 255)


@given(*[st.builds(Masks, words, words, words)] * 2, words)
def test_two_faults_in_one_word_are_one(first: Masks, second: Masks, word: int) -> None:
    together = then(first, second)
    assert applied(together, word) == applied(second, applied(first, word))
    assert all(0 <= mask < 256 for mask in together)
