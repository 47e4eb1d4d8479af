"""No printed bound is tighter than the bound: whoever types it gets what was promised."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.core.words.bounds import at_least, at_most, percent_at_least, tolerance

BOUNDS = st.floats(1e-300, 1e300)


@given(BOUNDS)
def test_a_typed_bound_holds_and_no_tighter_one_of_three_digits_does(bound: float) -> None:
    up, down = at_least(bound), at_most(bound)
    assert float(down) <= bound <= float(up)
    step = Decimal(1).scaleb(Decimal(up).adjusted() - 2)
    assert float(Decimal(up) - step) < bound
    step = Decimal(1).scaleb(Decimal(down).adjusted() - 2)
    assert float(Decimal(down) + step) > bound


@given(st.integers(100, 999), st.integers(-30, 30))
def test_a_bound_of_three_digits_is_printed_as_it_is_and_the_next_one_is_not(digits: int, exponent: int) -> None:
    bound = float(f"{digits}e{exponent}")
    assert float(at_least(bound)) == float(at_most(bound)) == bound
    assert float(at_least(math.nextafter(bound, math.inf))) > bound  # not taken for the rounding error that it may be
    assert float(at_most(math.nextafter(bound, 0))) < bound


@pytest.mark.parametrize(
    ("bound", "up", "down"),
    [
        (0, "0", "0"),
        (5.3644e-8, "5.37e-8", "5.36e-8"),
        (0.0123, "0.0123", "0.0123"),
        (0.99951, "1", "0.999"),
        (123.456, "124", "123"),
        (999.5, "1e3", "999"),
        (1e-4, "1e-4", "1e-4"),
        (math.inf, "inf", "inf"),
    ],
)
def test_bounds(bound: float, up: str, down: str) -> None:
    assert (at_least(bound), at_most(bound)) == (up, down)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0"),
        (0.004, "0.40"),
        (0.046, "4.6"),
        (0.07, "7.0"),
        (1 - 0.05 ** (1 / 16), "18"),  # 17.08 %: of 16 images without an alarm one cannot say 17
        (0.996, "100"),
        (1, "100"),
    ],
)
def test_upper_bounds_in_percent(share: float, text: str) -> None:
    assert percent_at_least(share) == text


@given(st.floats(1e-12, 1))
def test_an_upper_bound_in_percent_is_never_understated(share: float) -> None:
    assert share <= float(Decimal(percent_at_least(share)) / 100) <= share * 1.11


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (1e-4, "1e-4"), (0.01, "0.01"), (1.23e-7, "1.23e-7"), (1500, "1.5e3")]
)
def test_tolerances(number: float, text: str) -> None:
    assert tolerance(number) == text
