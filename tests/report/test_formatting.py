from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.report import formatting
from testbed.report.estimate import RateEstimate

RATES = st.floats(0, 1)


@given(RATES)
def test_a_percentage_is_right_to_two_digits(rate: float) -> None:
    shown = formatting.percent(rate)
    assert shown.endswith("\u202f%")
    assert float(shown[:-2]) == pytest.approx(100 * rate, rel=0.05, abs=1e-8)
    assert (float(shown[:-2]) == 0) == (rate < 5e-11)


@given(st.tuples(RATES, RATES, RATES).map(sorted))
def test_printed_ends_enclose_the_printed_rate(ends: list[float]) -> None:
    low, rate, high = ends
    estimate = RateEstimate(rate, low, high, 1, 1)
    shown = formatting.rate(estimate)
    number, bounds = shown.split("\u202f% [")
    left, right = bounds.rstrip("]").split(",\u00a0")
    assert float(left) <= float(number) <= float(right)


@pytest.mark.parametrize(
    ("rate", "low", "high", "shown"),
    [
        (0.0312, 0.0295, 0.0330, "3.12\u202f% [2.95,\u00a03.30]"),
        (0.5, 0.31, 0.69, "50\u202f% [31,\u00a069]"),
        (0.0, 0.0, 0.0003, "0\u202f% [0,\u00a00.030]"),
        (1.0, 0.964, 1.0, "100.0\u202f% [96.4,\u00a0100.0]"),
        (0.25, 0.25, 0.25, "25\u202f% [25,\u00a025]"),
        (2e-7, 0.0, 0.35, "0.00002\u202f% [0,\u00a035]"),
        (0.0, 0.0, 0.0, "0\u202f% [0,\u00a00]"),
    ],
)
def test_rates_with_intervals(rate: float, low: float, high: float, shown: str) -> None:
    assert formatting.rate(RateEstimate(rate, low, high, 1, 1)) == shown


def test_a_rate_that_was_not_measured() -> None:
    assert formatting.rate(None) == "not measured"


@given(RATES)
def test_a_cell_has_room_for_its_number(rate: float) -> None:
    shown = formatting.compact(rate)
    assert len(shown) <= 4
    assert (shown == "0") == (rate == 0)
    if shown != "<.01":
        assert float(shown) == pytest.approx(100 * rate, rel=0.06, abs=0.0051)


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.5, "1 in 2"), (0.3, "1 in 3.3"), (1.0, "1 in 1"), (0.0101, "1 in 99"), (1 / 1234, "1 in 1,200")],
)
def test_one_in(share: float, shown: str) -> None:
    assert formatting.one_in(share) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (1e-5, "1e-5"),
        (1.19e-7, "1.2e-7"),
        (0.0, "0"),
        (None, "not measured"),
        (0.02, "0.02"),
        (1e-4, "1e-4"),
        (5e10, "5e10"),
    ],
)
def test_small_numbers(number: float | None, shown: str) -> None:
    assert formatting.small(number) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (-0.375784, "-0.375784"),
        (1.2787e38, "1.2787e+38"),
        (math.nan, "NaN"),
        (math.inf, "+inf"),
        (-math.inf, "-inf"),
        (-0.0, "-0"),
    ],
)
def test_faulty_values(number: float, shown: str) -> None:
    assert formatting.value(number) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.083, "0.083"), (7.12, "7.1"), (61.2, "61"), (150, "2.5"), (7200, "2.0")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert formatting.duration(seconds).split("\u202f")[0] == shown


def test_samples() -> None:
    assert formatting.sample(RateEstimate(0, 0, 0, 1408, 1408)) == "1,408 faults"
    assert formatting.sample(RateEstimate(0, 0, 0, 14, 1408)) == "14 faults, 1,408 rows"


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("flip", "bit flips"),
        ("random x row", "random values, row"),
        ("flip x burst-4-any-bit", "bit flips, burst-4-any-bit"),
        ("stuck1, persistent", "stuck-at-1, persistent"),
        ("stuck0 x tile-2x3, persistent", "stuck-at-0, tile-2x3, persistent"),
    ],
)
def test_fault_models_are_named_from_the_summarys_labels(label: str, name: str) -> None:
    assert formatting.model_name(label) == name


def test_one_sided_bounds_are_told_where_they_are_known_and_never_understated() -> None:
    known = RateEstimate(0.0, 0.0, 0.0015, 2000, 2000, 0.001493, 0.002294)
    assert formatting.bounds(known).replace("\u202f", " ").replace("\xa0", " ") == (
        "; below 0.15 % at 95 %, 0.23 % at 99 %, one-sided"
    )
    assert formatting.bounds(RateEstimate(0.0, 0.0, 0.0015, 2000, 2000)) == ""
