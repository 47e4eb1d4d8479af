"""Intervals over seeds, paired differences, and whether a published order holds."""

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.proportion import proportion_confint

from testbed.study.results import SeedScore, VariantScore, differences_of, mean_interval


def score(seed, accuracy, images=1000):
    return SeedScore.of(
        seed,
        test_accuracy=accuracy,
        test_images=images,
        validation_accuracy=0.5,
        best_epoch=1,
        epochs=2,
        seconds=1.5,
        folder=f"runs/x/seed-{seed}",
    )


def variant(name, accuracies, published=None):
    return VariantScore.of(name, [score(seed, value) for seed, value in enumerate(accuracies)], 10, published)


@pytest.mark.parametrize("values", [[0.6, 0.7], [0.61, 0.64, 0.6], [0.1, 0.2, 0.4, 0.3, 0.25]])
def test_the_interval_of_a_mean_is_scipy_s(values):
    expected = scipy.stats.t.interval(0.95, len(values) - 1, np.mean(values), scipy.stats.sem(values))
    assert mean_interval(values) == pytest.approx((np.mean(values), *expected))
    scored = variant("a", values)
    assert (scored.mean, scored.low, scored.high) == pytest.approx((np.mean(values), *np.clip(expected, 0, 1)))
    assert scored.standard_deviation == pytest.approx(np.std(values, ddof=1))
    assert (scored.n, scored.over, scored.seconds) == (len(values), "seeds", 1.5 * len(values))


def test_a_single_seed_has_the_interval_of_its_test_images():
    single = variant("a", [0.637])
    assert (single.low, single.high) == pytest.approx(proportion_confint(637, 1000, method="wilson"))
    assert (single.over, single.standard_deviation) == ("test images", None)


def test_differences_are_in_pairs_of_a_seed():
    first, second = variant("a", [0.6, 0.7, 0.5]), variant("b", [0.58, 0.67, 0.49])
    (difference,) = differences_of([first, second])
    expected = scipy.stats.ttest_rel([0.6, 0.7, 0.5], [0.58, 0.67, 0.49]).confidence_interval(0.95)
    assert (difference.first, difference.second) == ("a", "b")
    assert (difference.low, difference.high) == pytest.approx(tuple(expected))
    assert difference.mean == pytest.approx(0.02)
    assert (difference.published, difference.verdict) == (None, None)


@pytest.mark.parametrize(
    ("ours", "published", "verdict"),
    [
        ([0.10, 0.11, 0.10], (0.7, 0.6), "holds"),
        ([0.10, 0.11, 0.10], (0.6, 0.7), "reversed"),
        ([-0.10, -0.11, -0.10], (0.6, 0.7), "holds"),
        ([-0.10, -0.11, -0.10], (0.7, 0.6), "reversed"),
        ([0.10, -0.11, 0.10], (0.7, 0.6), "undecided"),
        ([0.10], (0.7, 0.6), "undecided"),
        ([0.10, 0.11, 0.10], (0.7, 0.7), None),
    ],
)
def test_a_published_order_holds_where_the_interval_excludes_zero(ours, published, verdict):
    first = variant("a", [0.5 + value for value in ours], published[0])
    (difference,) = differences_of([first, variant("b", [0.5] * len(ours), published[1])])
    assert difference.verdict == verdict
    assert difference.published == pytest.approx(published[0] - published[1])


def test_every_two_variants_are_compared_once():
    pairs = differences_of([variant(name, [0.5, 0.6]) for name in "abcd"])
    assert [pair.first + pair.second for pair in pairs] == ["ab", "ac", "ad", "bc", "bd", "cd"]
