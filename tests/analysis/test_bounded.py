"""Limits of a mean between 0 and 1, against Clopper & Pearson's for zeros and ones, and by how often they hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from testbed.analysis.bounded import bounded_mean_interval
from testbed.analysis.stats import clopper_pearson
from testbed.core.errors import UsageError

shares = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@pytest.mark.parametrize("n", [1, 5, 30])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_zeros_and_ones_give_clopper_and_pearsons_limits(n: int, confidence: float) -> None:
    for events in {0, 1, n // 2, n}:
        found = bounded_mean_interval([1] * events + [0] * (n - events), confidence)
        assert found == pytest.approx(clopper_pearson(events, n, confidence), abs=0.005)


@settings(max_examples=50)
@given(shares)
def test_limits_hold_the_mean_and_mirror_each_other(values: list[float]) -> None:
    low, high = bounded_mean_interval(values)
    assert -1e-12 <= low <= np.mean(values) + 0.01
    assert np.mean(values) - 0.01 <= high <= 1 + 1e-12
    turned = bounded_mean_interval([1 - value for value in values])
    assert (1 - turned.high, 1 - turned.low) == pytest.approx((low, high), abs=1e-9)


def rare(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    return np.where(rng.random(n) < 0.2, 0.9, 0.1)


@pytest.mark.parametrize(
    ("draw", "mean"),
    [(rare, 0.26), (lambda rng, n: rng.random(n) ** 4, 0.2), (lambda rng, n: rng.beta(0.05, 0.95, n), 0.05)],
)
@pytest.mark.parametrize("n", [2, 10])
def test_they_hold_as_often_as_they_say(
    draw: Callable[[np.random.Generator, int], NDArray[np.float64]], mean: float, n: int
) -> None:
    rng, runs, confidence = np.random.default_rng(1), 200, 0.9
    held = 0
    for _ in range(runs):
        low, high = bounded_mean_interval(draw(rng, n), confidence)
        held += int(low <= mean <= high)
    assert held >= confidence * runs - 3 * np.sqrt(runs * confidence * (1 - confidence))


def test_nothing_seen_is_nothing_known() -> None:
    low, high = bounded_mean_interval([])
    assert (float(low), float(high)) == (0, 1)


def test_what_is_no_share_is_refused() -> None:
    for values in ([0.5, 1.1], [-0.1], [float("nan")]):
        with pytest.raises(UsageError, match="a number from 0 to 1"):
            bounded_mean_interval(values)
    with pytest.raises(UsageError, match="confidence level"):
        bounded_mean_interval([0.5], 1.0)
