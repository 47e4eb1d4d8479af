"""Quality by its definitions, and who is dominated by whom."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from testbed.bench.quality import quality
from testbed.bench.tradeoff import pareto
from testbed.core.errors import TestbedError

CLASSES = ("a", "b", "c")


def test_quality_of_a_case_by_hand() -> None:
    """Right: a, a, b; wrong: c taken for b. Precision 1, 1/2, 0; recall 1, 1, 0."""
    shares = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.5, 0.4]])
    found = quality(np.log(shares).astype(np.float32), np.array([0, 0, 1, 2]), CLASSES)
    assert found.top1 == 0.75
    assert found.top5 == 1.0
    assert found.precision == pytest.approx((1 + 0.5 + 0) / 3)
    assert found.recall == pytest.approx(2 / 3)
    assert found.f1 == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert found.per_class == {"a": 1.0, "b": 1.0, "c": 0.0}
    assert found.confidence_right == pytest.approx((0.8 + 0.6 + 0.7) / 3)
    assert found.confidence_wrong == pytest.approx(0.5)
    assert found.confidence_gap == pytest.approx(0.7 - 0.5)
    assert found.entropy_nats == pytest.approx(entropy(shares, axis=1).mean(), rel=1e-6)


def test_top_5_of_many_classes() -> None:
    logits = np.tile(np.arange(10, 0, -1, dtype=np.float32), (4, 1))
    found = quality(logits, np.array([0, 4, 5, 9]), list("abcdefghij"))
    assert (found.top1, found.top5) == (0.25, 0.5)


def test_nothing_wrong_has_no_confidence_of_the_wrong() -> None:
    found = quality(np.eye(3, dtype=np.float32), np.arange(3), CLASSES)
    assert (found.confidence_wrong, found.confidence_gap) == (None, None)


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(TestbedError, match="no images"):
        quality(np.zeros((0, 3), np.float32), np.zeros(0, np.int64), CLASSES)
    with pytest.raises(TestbedError, match="not finite"):
        quality(np.full((1, 3), np.nan, np.float32), np.zeros(1, np.int64), CLASSES)


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12))
def test_the_front_is_who_nobody_dominates(points: list[tuple[int, int, int]]) -> None:
    front = pareto(points)
    assert any(front)
    for mine, best in zip(points, front, strict=True):
        better = [p for p in points if p != mine and all(a >= b for a, b in zip(p, mine, strict=True))]
        assert best == (not better)


def test_objectives_that_some_lack_do_not_count() -> None:
    assert pareto([(1.0, -2.0, -0.1), (0.9, -3.0)]) == [True, False]
