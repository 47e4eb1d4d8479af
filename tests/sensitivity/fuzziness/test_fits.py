"""Fits find the law that made the values, and say so where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from testbed.core.errors import UsageError
from testbed.sensitivity.fuzziness.fits import exponential_fit, separation_fit

X = np.arange(1, 8)


def test_an_exponential_is_found_again() -> None:
    found = exponential_fit(40 * np.exp(-0.7 * X) + 3)
    assert found is not None
    assert (found.a, found.b, found.c) == pytest.approx((40, 0.7, 3), rel=1e-6)
    assert found.r2 == pytest.approx(1)
    assert found.converged
    np.testing.assert_allclose(found.at(X), 40 * np.exp(-0.7 * X) + 3, rtol=1e-6)


def test_a_geometric_fall_is_a_straight_line_of_logarithms() -> None:
    found = separation_fit(21 * 0.54 ** (X - 1))
    assert found is not None
    assert found.rho == pytest.approx(0.54)
    assert found.r == pytest.approx(-1)
    assert found.r2 == pytest.approx(1)


def test_r2_is_of_the_linear_scale_and_falls_with_noise() -> None:
    noisy = 40 * np.exp(-0.7 * X) + 3 + np.array([3.0, -3, 3, -3, 3, -3, 3])
    found = exponential_fit(noisy)
    assert found is not None
    assert found.r2 == pytest.approx(1 - ((noisy - found.at(X)) ** 2).sum() / ((noisy - noisy.mean()) ** 2).sum())
    assert found.r2 is not None
    assert 0.5 < found.r2 < 0.99


def test_values_that_do_not_vary_have_no_r2() -> None:
    flat = separation_fit([2.0, 2.0, 2.0])
    assert flat is not None
    assert (flat.rho, flat.r2, flat.r) == (1.0, None, None)
    found = exponential_fit([2.0, 2.0, 2.0, 2.0])
    assert found is not None
    assert found.r2 is None


def test_too_few_layers_have_no_fit() -> None:
    assert exponential_fit([3.0, 2.0]) is None
    assert separation_fit([3.0, 2.0]) is None


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(UsageError, match="not finite"):
        exponential_fit([1.0, np.inf, 2.0])
    with pytest.raises(UsageError, match="fuzziness is 0"):
        separation_fit([1.0, 0.0, 2.0])
