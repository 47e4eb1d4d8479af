"""Kappa against scikit-learn and the published formulas, and what its interval must do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from testbed.analysis.agreement import Kappa, agreement, cohen_kappa, correlation, difference, variance_of_mean
from testbed.analysis.survey import Estimate, SurveyDesign

NAMES = ("inside", "sdc_tolerable", "sdc1")


def simple(rows: int) -> SurveyDesign:
    """A simple random sample: one stratum, one row per fault."""
    return SurveyDesign(np.zeros(rows, int), np.full(rows, 1e6), np.arange(rows))


def matrix_rows(matrix: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    counts = np.array(matrix)
    cells = np.repeat(np.arange(counts.size), counts.reshape(-1))
    return cells // len(counts), cells % len(counts)


def estimate(rate: float, low: float, high: float) -> Estimate:
    return Estimate(rate, low, high, 1, 1, 1.0, 0.0, high, high)


def limits_of(kappa: Kappa) -> tuple[float, float]:
    assert kappa.low is not None
    assert kappa.high is not None
    return kappa.low, kappa.high


MATRICES = st.integers(1, 4).flatmap(
    lambda k: st.lists(st.lists(st.integers(0, 9), min_size=k, max_size=k), min_size=k, max_size=k)
)

# ---- kappa


@given(MATRICES.filter(lambda m: sum(map(sum, m)) > 0))
def test_kappa_is_scikit_learns(matrix):
    one, two = matrix_rows(matrix)
    found = cohen_kappa(matrix)
    if len({*one, *two}) == 1:
        assert found is None
    else:
        assert found == pytest.approx(cohen_kappa_score(one, two), abs=1e-12)
        assert found == pytest.approx(cohen_kappa(np.transpose(matrix)), abs=1e-12)


def test_kappa_is_exactly_one_without_disagreement_whatever_the_weights():
    assert cohen_kappa(np.diag([0.1, 0.2, 0.3, 1e-9])) == 1


@pytest.mark.parametrize("matrix", [[[1, 2]], [[0, 0], [0, 0]], [[1, -1], [0, 1]], [], [1, 2]])
def test_what_is_no_agreement_matrix_is_refused(matrix):
    with pytest.raises(ValueError, match="square"):
        cohen_kappa(matrix)


@given(st.integers(0, 2**32 - 1))
def test_strata_weigh_by_their_population(seed):
    """Rows of stratum h stand for W_h / m_h of the population: scikit-learn's with these weights."""
    rng = np.random.default_rng(seed)
    stratum = np.repeat(np.arange(4), rng.integers(2, 9, 4))
    population = np.array([10.0, 1000.0, 3.0, 250.0])
    one, two = rng.integers(0, 3, (2, len(stratum)))
    found = agreement(one, two, NAMES, SurveyDesign(stratum, population[stratum], np.arange(len(stratum))))
    weight = (population / np.bincount(stratum))[stratum]
    assert found.kappa.value == pytest.approx(cohen_kappa_score(one, two, sample_weight=weight), abs=1e-12)
    assert found.agreement.rate == pytest.approx(np.average(one == two, weights=weight))
    assert found.counts.sum() == len(stratum)
    assert found.shares.sum() == pytest.approx(1)
    np.testing.assert_array_equal(found.counts.sum(axis=1), np.bincount(one, minlength=3))
    np.testing.assert_array_equal(found.counts.sum(axis=0), np.bincount(two, minlength=3))


def test_one_category_only_has_no_kappa_and_says_so():
    rows = np.ones(7, int)
    found = agreement(rows, rows, NAMES, simple(7))
    assert (found.kappa.value, found.kappa.low, found.kappa.high) == (None, None, None)
    assert found.kappa.undefined is not None
    assert "'sdc_tolerable'" in found.kappa.undefined
    assert found.agreement.rate == 1


def test_two_constant_judges_who_differ_have_a_kappa_of_zero():
    found = agreement(np.zeros(9, int), np.ones(9, int), NAMES, simple(9)).kappa
    assert found.value == pytest.approx(0, abs=1e-12)
    assert found.undefined is None


@pytest.mark.parametrize(("one", "two"), [([0, 1], [0]), ([0, 3], [0, 1]), ([0, -1], [0, 1])])
def test_judgements_that_do_not_fit_are_refused(one, two):
    with pytest.raises(ValueError, match="judgement"):
        agreement(np.array(one), np.array(two), NAMES, simple(2))


# ---- its interval


def fleiss_standard_error(matrix: np.ndarray) -> float:
    """Fleiss, Cohen & Everitt (1969), equation 13 without simplification: cell by cell."""
    n, p = matrix.sum(), matrix / matrix.sum()
    rows, columns = p.sum(axis=1), p.sum(axis=0)
    p_o, p_e = np.trace(p), (rows * columns).sum()
    total = 0.0
    for i in range(len(p)):
        for j in range(len(p)):
            own = (1 - p_e) * (i == j) - (columns[i] + rows[j]) * (1 - p_o)
            total += p[i, j] * own**2
    return float(np.sqrt((total - (p_o * p_e - 2 * p_e + p_o) ** 2) / n) / (1 - p_e) ** 2)


def test_the_oracle_is_the_textbooks():
    """Fleiss, Levin & Paik (Statistical Methods for Rates and Proportions, 2003, ch. 18): two raters, 100 subjects."""
    textbook = np.array([[75, 1, 4], [5, 4, 1], [0, 0, 10]])
    assert cohen_kappa(textbook) == pytest.approx(0.676, abs=5e-4)
    assert fleiss_standard_error(textbook) == pytest.approx(0.088, abs=5e-4)


@pytest.mark.parametrize(
    "matrix",
    [
        [[1500, 20, 80], [100, 80, 20], [10, 10, 200]],
        [[400, 100], [100, 400]],
        [[700, 300, 5], [100, 200, 10], [3, 30, 40]],
    ],
)
def test_of_a_large_simple_sample_the_interval_is_fleiss_cohen_and_everitts(matrix):
    found = agreement(*matrix_rows(matrix), NAMES[: len(matrix)], simple(np.sum(matrix))).kappa
    half_width = 1.959964 * fleiss_standard_error(np.array(matrix))
    low, high = limits_of(found)
    assert (high - low) / 2 == pytest.approx(half_width, rel=0.03)
    assert (high + low) / 2 == pytest.approx(found.value, abs=0.1 * half_width)


def test_full_agreement_of_few_faults_leaves_room_below_and_of_many_less():
    for faults in (20, 200, 2000):
        rows = np.arange(faults) % 2
        found = agreement(rows, rows, NAMES, simple(faults)).kappa
        assert (found.value, found.high) == (1, 1)
        could_differ = 1 - 0.025 ** (1 / faults)  # Clopper & Pearson's upper limit of 0 events
        assert found.low == pytest.approx(1 - could_differ / 0.5)


def test_images_under_one_fault_are_no_more_faults():
    rng = np.random.default_rng(0)
    one = rng.integers(0, 2, 60)
    two = np.where(rng.random(60) < 0.1, 1 - one, one)
    alone = agreement(one, two, NAMES, simple(60)).kappa
    fault = np.repeat(np.arange(60), 16)
    design = SurveyDesign(np.zeros(960, int), np.full(960, 1e6), fault)
    many = agreement(np.repeat(one, 16), np.repeat(two, 16), NAMES, design).kappa
    assert many.value == pytest.approx(alone.value)
    (low, high), (low_alone, high_alone) = limits_of(many), limits_of(alone)
    assert high - low == pytest.approx(high_alone - low_alone, rel=1e-6)


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.5))
def test_the_interval_encloses_kappa(seed, flips):
    rng = np.random.default_rng(seed)
    stratum = np.repeat(np.arange(5), 3)
    one = rng.integers(0, 3, 15)
    two = np.where(rng.random(15) < flips, rng.integers(0, 3, 15), one)
    design = SurveyDesign(stratum, np.array([1.0, 10, 100, 5, 7])[stratum], np.arange(15))
    found = agreement(one, two, NAMES, design).kappa
    if found.value is not None:
        low, high = limits_of(found)
        assert -1 <= low <= found.value <= high <= 1


def test_coverage_of_a_stratified_clustered_sample():
    """One fault of each stratum, eight images each: at least 95 % of the intervals hold the population's kappa."""
    rng = np.random.default_rng(3)
    strata, images, runs = 64, 8, 200
    population = rng.integers(10, 1000, strata)
    severity = np.repeat(rng.beta(0.6, 0.6, strata // 8), 8)

    def drawn(faults: int) -> tuple[np.ndarray, np.ndarray]:
        """(strata * faults, images) of 0 and 1 by each judge."""
        severe = rng.random(strata * faults) < np.repeat(severity, faults)
        one = rng.random((len(severe), images)) < np.where(severe, 0.9, 0.05)[:, None]
        odd = (rng.random(len(severe)) < 0.1)[:, None] & (rng.random(one.shape) < 0.7)
        return one, one ^ odd

    one, two = drawn(2000)
    weight = np.repeat(population, 2000 * images)
    true = cohen_kappa_score(one.reshape(-1), two.reshape(-1), sample_weight=weight)
    stratum = np.repeat(np.arange(strata), images)
    design = SurveyDesign(stratum, population[stratum], stratum, stratum // 8)
    missed = 0
    for _ in range(runs):
        one, two = (side.reshape(-1).astype(int) for side in drawn(1))
        found = agreement(one, two, NAMES[:2], design).kappa
        missed += not found.low <= true <= found.high
    assert missed <= 18  # 1 in 20,000 of a true 95 %


# ---- what it rests on


@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_the_variance_of_zeros_and_ones_is_the_surveys(seed, alike, finite):
    rng = np.random.default_rng(seed)
    faults = rng.integers(1, 5, 6)
    stratum_of_fault = np.repeat(np.arange(6), faults)
    fault = np.repeat(np.arange(len(stratum_of_fault)), rng.integers(1, 4, len(stratum_of_fault)))
    stratum = stratum_of_fault[fault]
    population = rng.integers(5, 50, 6)[stratum]
    design = SurveyDesign(stratum, population, fault, stratum // 2 if alike else None, finite)
    y = rng.integers(0, 2, len(fault))
    assert variance_of_mean(y, design) == pytest.approx(design.estimate(y).standard_error ** 2, rel=1e-9, abs=1e-18)
    assert variance_of_mean(3 * y + 1, design) == pytest.approx(9 * variance_of_mean(y, design), abs=1e-15)


def test_the_difference_of_two_rates_is_newcombes():
    """Newcombe (Statistics in Medicine 1998), his method 10: 56/70 - 48/80 is .2 [.0524, .3339] from Wilson's limits."""
    wilson_a, wilson_b = estimate(0.8, 0.6917, 0.8769), estimate(0.6, 0.4904, 0.7003)
    value, low, high = difference(wilson_a, wilson_b)
    assert (value, low, high) == pytest.approx((0.2, 0.0524, 0.3339), abs=2e-4)
    assert difference(wilson_b, wilson_a) == pytest.approx((-value, -high, -low))


def test_no_event_on_either_side_is_no_proof_of_equality():
    assert difference(estimate(0, 0, 0.02), estimate(0, 0, 0.05)) == pytest.approx((0, -0.05, 0.02))


def test_rates_that_move_together_differ_by_less():
    a, b = estimate(0.5, 0.4, 0.6), estimate(0.45, 0.35, 0.55)
    widths = [np.ptp(difference(a, b, joint)[1:]) for joint in (0.0, 0.5, 1.0)]
    assert widths[0] > widths[1] > widths[2] == pytest.approx(0, abs=1e-9)


def test_correlation_of_estimates():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 400)
    design = simple(400)
    assert correlation(y, y, design) == pytest.approx(1)
    assert correlation(y, 1 - y, design) == pytest.approx(-1)
    assert correlation(y, np.zeros(400), design) == 0
    other = np.where(rng.random(400) < 0.3, 1 - y, y)
    assert correlation(y, other, design) == pytest.approx(np.corrcoef(y, other)[0, 1])
