"""Number formats: what each bit is, and the class it is reported under."""

from __future__ import annotations

import pytest

from testbed.core.errors import UsageError
from testbed.core.formats import FORMATS, FP32, format_named

FLOATS = {"fp32": (1, 8, 23), "fp16": (1, 5, 10), "bf16": (1, 8, 7)}


@pytest.mark.parametrize("name", FLOATS)
def test_a_float_is_sign_then_exponent_then_mantissa(name: str) -> None:
    sign, exponent, mantissa = FLOATS[name]
    fmt = FORMATS[name]
    roles = [fmt.role(bit) for bit in range(fmt.bits)]
    assert roles == ["mantissa"] * mantissa + ["exponent"] * exponent + ["sign"] * sign


def test_signed_integers_have_a_sign_and_unsigned_ones_do_not() -> None:
    assert [FORMATS["int8"].role(bit) for bit in (0, 6, 7)] == ["magnitude", "magnitude", "sign"]
    assert {FORMATS["uint8"].role(bit) for bit in range(8)} == {"magnitude"}
    assert FORMATS["int32"].role(31) == "sign"


def test_display_classes_of_fp32() -> None:
    classes = [FP32.bit_class(bit) for bit in range(32)]
    assert classes == (["mantissa_low"] * 12 + ["mantissa_high"] * 11 + ["exponent"] * 7 + ["exponent_top"] + ["sign"])


@pytest.mark.parametrize("name", FORMATS)
def test_only_floats_have_a_top_exponent_bit_and_it_is_the_one_below_the_sign(name: str) -> None:
    fmt = FORMATS[name]
    tops = [bit for bit in range(fmt.bits) if fmt.bit_class(bit) == "exponent_top"]
    assert tops == ([fmt.bits - 2] if name in FLOATS else [])


def test_a_whole_word_fault_has_a_class_of_its_own() -> None:
    assert FP32.bit_class(None) == "word"


@pytest.mark.parametrize("bit", [-1, 32])
def test_a_bit_outside_the_word_is_refused(bit: int) -> None:
    with pytest.raises(UsageError, match="bits are 0 to 31"):
        FP32.role(bit)


def test_an_unknown_format_is_refused_naming_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"fp64.*fp32, fp16"):
        format_named("fp64")


def test_bits_of_one_role_have_one_name_in_every_format() -> None:
    """Campaigns in two precisions draw the same faults where both have the bit."""
    assert {FORMATS[name].role_name(bit) for name, bit in (("fp32", 30), ("fp16", 14), ("bf16", 14))} == {"exponent-0"}
    assert {FORMATS[name].role_name(bit) for name, bit in (("fp32", 22), ("fp16", 9), ("bf16", 6))} == {"mantissa-0"}
    assert {FORMATS[name].role_name(FORMATS[name].bits - 1) for name in ("fp32", "fp16", "int8", "int32")} == {"sign-0"}
    for fmt in FORMATS.values():
        assert len({fmt.role_name(bit) for bit in range(fmt.bits)}) == fmt.bits
    assert FORMATS["int8"].role_name(None) == "word"
