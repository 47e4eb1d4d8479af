import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from testbed.analysis.stats import (
    OneMore,
    clopper_pearson,
    leveugle,
    proportion_bound,
    proportion_interval,
    upper_bound,
    wilson,
)
from testbed.core.errors import UsageError

COUNTS = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
LEVELS = st.sampled_from([0.5, 0.9, 0.95, 0.99])


@given(COUNTS, LEVELS)
def test_agreement_with_scipy(counts, confidence):
    x, n = counts
    test = scipy.stats.binomtest(x, n)
    for ours, name in ((wilson, "wilson"), (clopper_pearson, "exact")):
        theirs = test.proportion_ci(confidence, method=name)
        np.testing.assert_allclose(ours(x, n, confidence), (theirs.low, theirs.high), rtol=1e-9, atol=1e-12)


def test_agreement_with_statsmodels():
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    x, n = np.array([0, 1, 5, 50, 99, 100]), 100
    np.testing.assert_allclose(wilson(x, n), proportion.proportion_confint(x, n, method="wilson"), atol=1e-12)
    np.testing.assert_allclose(clopper_pearson(x, n), proportion.proportion_confint(x, n, method="beta"), atol=1e-12)


def test_textbook_values():
    """81 of 263 at 95 % (Newcombe, Statistics in Medicine 1998, table I)."""
    np.testing.assert_allclose(wilson(81, 263), (0.2553, 0.3662), atol=5e-5)
    np.testing.assert_allclose(clopper_pearson(81, 263), (0.2527, 0.3676), atol=5e-5)
    np.testing.assert_allclose(clopper_pearson(0, 100).high, 1 - 0.025 ** (1 / 100))


@pytest.mark.parametrize("interval", [wilson, clopper_pearson, proportion_interval])
def test_the_ends(interval):
    n = np.arange(1, 200)
    assert (interval(0, n).low == 0).all()
    assert (interval(n, n).high == 1).all()
    low, high = interval([0, 7, 0], [7, 7, 0])
    assert (low[0], high[1]) == (0, 1)
    assert 0 < high[0] < 1
    assert 0 < low[1] < 1
    assert (low[2], high[2]) == (0, 1)


@given(COUNTS)
def test_rare_events_are_exact_and_the_others_wilson(counts):
    x, n = counts
    expected = clopper_pearson if min(x, n - x) < 5 else wilson
    np.testing.assert_array_equal(proportion_interval(x, n), expected(x, n))


def test_the_interval_covers_near_zero_where_wilson_does_not():
    """Exact coverage, summed over all outcomes of n = 100; Wilson's falls to 0.84 near p = 0.17/n."""
    x, p = np.arange(101), np.geomspace(1e-5, 0.5, 500)
    mass = scipy.stats.binom.pmf(x[:, None], 100, p)

    def coverage(interval):
        low, high = interval(x, 100)
        return (mass * ((low[:, None] <= p) & (p <= high[:, None]))).sum(axis=0)

    assert coverage(wilson).min() < 0.85
    assert coverage(clopper_pearson).min() >= 0.95
    assert coverage(proportion_interval).min() > 0.92


def test_counts_that_are_none_are_refused():
    for x, n in ((-1, 5), (6, 5), (np.nan, 5)):
        with pytest.raises(ValueError, match="from 0 to its number of trials"):
            wilson(x, n)
    with pytest.raises(UsageError, match=r"such as 0\.95, not 95"):
        clopper_pearson(1, 5, 95)


def test_leveugle_sample_sizes():
    """Of an infinite population: 384.1 for 5 % at 95 %, 9,603.6 for 1 % at 95 %, 16,587.2 for 1 % at 99 %."""
    assert leveugle(10**15, 0.05) == 385
    assert leveugle(10**15, 0.01) == 9604
    assert leveugle(10**15, 0.01, confidence=0.99) == 16588
    assert leveugle(1000, 0.05) == 278  # 1000 / (1 + 0.0025 * 999 / 0.9604) = 277.7
    assert leveugle(10**15, 0.01, p=0.1) == 3458  # 9 % of 38,414.6
    assert leveugle(10**18 - 1, 1e-30) == 10**18 - 1  # and not the 10**18 that floats make of it
    assert [leveugle(math.inf, margin) for margin in (0.05, 0.01, 3)] == [385, 9604, 1]
    assert leveugle(2, 0.9) == 2  # 2 / (1 + 0.81 / 0.9604) = 1.09


def test_a_relative_margin_is_a_share_of_the_rate():
    assert leveugle(10**12, 0.5, p=0.02, relative=True) == leveugle(10**12, 0.01, p=0.02)


@given(st.integers(1, 10**18), st.floats(1e-6, 2), LEVELS, st.floats(1e-6, 1 - 1e-6), st.booleans())
def test_a_sample_size_is_of_the_population_and_gives_the_margin(population, margin, confidence, p, relative):
    n = leveugle(population, margin, confidence, p, relative)
    assert 1 <= n <= population
    # The half-width that n draws without replacement give is the margin or less, and one draw fewer would not do.
    half = scipy.stats.norm.ppf(0.5 + confidence / 2) * np.sqrt(p * (1 - p))
    wanted = margin * p if relative else margin

    def reached(draws):
        return half * np.sqrt(max(0, population - draws) / max(1, population - 1) / draws)

    assert reached(n) <= wanted * (1 + 1e-6)
    if n > 1:
        assert reached(n - 1) >= wanted * (1 - 1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"population": 0}, "1 or more, not 0"),
        ({"margin": 0}, "margin must be above 0"),
        ({"margin": np.nan}, "margin must be above 0"),
        ({"margin": 1e-300, "population": np.inf}, "no campaign knows a rate to within 1e-300"),
        (
            {"margin": 1e-9, "p": 1e-9, "relative": True, "population": np.inf},
            "no campaign knows a rate to within 1e-18",
        ),
        ({"p": 0}, r"use 0\.5 when it is unknown"),
        ({"p": 5e-324}, r"use 0\.5 when it is unknown"),
        ({"confidence": 1}, "confidence level must be between 0 and 1"),
    ],
)
def test_what_has_no_sample_size_is_refused(values, message):
    with pytest.raises(UsageError, match=message):
        leveugle(**{"population": 100, "margin": 0.1} | values)


@pytest.mark.parametrize("confidence", [0.95, 0.99])
@pytest.mark.parametrize(("events", "n"), [(0, 1), (0, 300), (3, 50), (49, 50), (50, 50)])
def test_a_one_sided_bound_is_the_one_that_the_binomial_test_rejects_above(events, n, confidence):
    p = events / n
    found = float(upper_bound(p, p * (1 - p) / n, OneMore(1 / n, 1 - p), confidence))
    if events == n:
        assert found == 1
    else:
        assert scipy.stats.binom.cdf(events, n, found) == pytest.approx(1 - confidence)
    if not events:
        assert found == pytest.approx(1 - (1 - confidence) ** (1 / n))


@pytest.mark.parametrize("level", [0.95, 0.99])
def test_a_proportions_bound_is_scipys_one_sided_one(level):
    for x, n in ((0, 1), (0, 300), (1, 20), (37, 200), (200, 200)):
        test = scipy.stats.binomtest(x, n, alternative="less")
        assert proportion_bound(x, n, level) == pytest.approx(test.proportion_ci(level, "exact").high)
    assert proportion_bound(0, 1000, level) == pytest.approx(-math.log(1 - level) / 1000, rel=0.01)
