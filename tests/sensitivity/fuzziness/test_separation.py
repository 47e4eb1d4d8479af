"""Fuzziness against its definition with dense matrices, hand-computed cases, and the limits."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from testbed.core.errors import UsageError
from testbed.sensitivity.fuzziness.separation import separation_fuzziness, streamed_fuzziness


def dense(x: NDArray, y: NDArray, weighted: bool = False) -> float:
    """Tr(Sw pinv(Sb)) as it is written."""
    x = x.reshape(len(x), -1).astype(np.float64)
    mean, classes = x.mean(axis=0), np.unique(y)
    within, between = np.zeros((x.shape[1],) * 2), np.zeros((x.shape[1],) * 2)
    for label in classes:
        mine = x[y == label]
        share = len(mine) / len(x) if weighted else 1 / len(classes)
        away, centre = mine - mine.mean(axis=0), mine.mean(axis=0) - mean
        within += share * away.T @ away / len(mine)
        between += share * np.outer(centre, centre)
    return float(np.trace(within @ np.linalg.pinv(between, rcond=1e-10, hermitian=True)))


def cloud(seed: int, n: int, d: int, classes: int, apart: float = 1.0) -> tuple[NDArray, NDArray]:
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), rng.integers(classes, size=n - classes)])
    return apart * rng.standard_normal((classes, d))[y] + rng.standard_normal((n, d)) + 3.0, y


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(12, 80),
    d=st.integers(1, 24),
    classes=st.integers(2, 6),
    weighted=st.booleans(),
)
def test_the_thin_factor_gives_what_the_definition_gives(
    seed: int, n: int, d: int, classes: int, weighted: bool
) -> None:
    x, y = cloud(seed, n, d, classes)
    assert separation_fuzziness(x, y, weighted=weighted) == pytest.approx(dense(x, y, weighted), rel=1e-6)


def test_two_classes_on_a_line_by_hand() -> None:
    """Means 1 and 5, variances 1 and 4: Sw = 2.5, Sb = 4, D = 0.625."""
    x, y = np.array([[0.0], [2.0], [3.0], [7.0]]), np.array([0, 0, 1, 1])
    assert separation_fuzziness(x, y) == pytest.approx(0.625, rel=1e-12)


def test_an_imbalanced_mean_is_the_samples_and_not_the_classes() -> None:
    """Class 0: 0, 0, 0; class 1: 3, 5. m = 8/5, Sb = ((8/5)^2 + (12/5)^2) / 2, Sw = 1/2."""
    x, y = np.array([[0.0], [0.0], [0.0], [3.0], [5.0]]), np.array([0, 0, 0, 1, 1])
    assert separation_fuzziness(x, y) == pytest.approx(0.5 / ((1.6**2 + 2.4**2) / 2), rel=1e-12)
    weighted = (2 / 5) / (3 / 5 * 1.6**2 + 2 / 5 * 2.4**2)
    assert separation_fuzziness(x, y, weighted=True) == pytest.approx(weighted, rel=1e-12)


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_it_does_not_change_with_scale_shift_rotation_or_the_order_of_samples(seed: int) -> None:
    x, y = cloud(seed, 60, 8, 4)
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.standard_normal((8, 8)))
    order = rng.permutation(60)
    assert separation_fuzziness((5 * x @ turn - 2)[order], y[order]) == pytest.approx(
        separation_fuzziness(x, y), rel=1e-8
    )


def test_streaming_in_uneven_batches_gives_the_same() -> None:
    x, y = cloud(0, 101, 12, 5)
    cuts = [0, 1, 2, 50, 51, 101]
    passes = 0

    def batches() -> list[tuple[NDArray, NDArray]]:
        nonlocal passes
        passes += 1
        order = np.random.default_rng(passes).permutation(101)  # in another order each time
        return [(x[order[a:b]], y[order[a:b]]) for a, b in pairwise(cuts)]

    assert streamed_fuzziness(batches) == pytest.approx(separation_fuzziness(x, y), rel=1e-10)
    assert passes == 2


def test_images_are_flattened() -> None:
    x, y = cloud(0, 30, 12, 3)
    assert separation_fuzziness(x.reshape(30, 3, 2, 2), y) == separation_fuzziness(x, y)


def test_limits() -> None:
    y = np.array([0, 0, 1, 1])
    assert separation_fuzziness([[1.0], [1.0], [2.0], [2.0]], y) == 0.0
    assert math.isinf(separation_fuzziness([[1.0], [3.0], [1.0], [3.0]], y))
    assert math.isinf(separation_fuzziness([[0.1], [0.3], [0.3], [0.1]], y))  # whose means differ by rounding only
    assert separation_fuzziness([[1.0], [1.0], [1.0], [1.0]], y) == 0.0


def test_a_direction_in_which_the_means_do_not_differ_does_not_count() -> None:
    rng = np.random.default_rng(0)
    x, y = cloud(1, 40, 3, 2)
    beside = rng.standard_normal((40, 1))
    beside -= np.array([beside[y == label].mean() for label in (0, 1)])[y][:, None]
    both = np.concatenate([x, 1e3 * beside], axis=1)
    assert separation_fuzziness(both, y) == pytest.approx(dense(both, y), rel=1e-6)
    assert separation_fuzziness(both, y) < 1e3


@pytest.mark.parametrize(
    ("features", "labels", "told"),
    [
        (np.zeros((3, 2)), [1, 1, 1], "only class 1"),
        (np.zeros((0, 2)), np.zeros(0, int), "no sample at all"),
        (np.zeros((3, 2)), [0, 1], "3 feature vectors have 2 labels"),
        ([[np.nan], [1.0]], [0, 1], "NaN or infinity"),
        (np.zeros((2, 2)), [0.5, 1.5], "whole numbers"),
    ],
)
def test_what_has_no_fuzziness_is_refused(features: NDArray, labels: NDArray, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        separation_fuzziness(features, labels)
