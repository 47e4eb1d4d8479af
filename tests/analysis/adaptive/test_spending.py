import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from testbed.analysis.adaptive.spending import SPENDING, critical_values, obrien_fleming, pocock, spending_named
from testbed.core.errors import UsageError

LOOKS = [0.2, 0.4, 0.6, 0.8, 1.0]


@pytest.mark.parametrize(
    ("spending", "published"),
    [
        (obrien_fleming, [4.8769, 3.3570, 2.6803, 2.2898, 2.0310]),
        (pocock, [2.4380, 2.4268, 2.4101, 2.3966, 2.3859]),
    ],
)
def test_five_equal_looks_have_the_published_boundaries(spending, published):
    """Two-sided alpha = 0.05, as tabulated for Lan and DeMets' functions (Reboussin et al., Controlled Clin Trials 2000)."""
    found = critical_values(LOOKS, [spending(time, 0.05) for time in LOOKS])
    np.testing.assert_allclose(found, published, atol=1e-4)


def test_one_look_is_the_normal_quantile():
    assert critical_values([3.7], [0.05]) == pytest.approx([norm.ppf(0.975)])


def test_equal_increments_at_one_alpha_are_wider_than_one_look_and_narrower_than_bonferroni():
    spent = (np.arange(1, 6) / 100).tolist()
    found = critical_values(LOOKS, spent)
    assert found[0] == pytest.approx(norm.isf(0.005))
    assert all(norm.isf(0.025) < c < norm.isf(0.005) for c in found[1:])


@given(st.floats(0.001, 0.3), st.sampled_from(sorted(SPENDING)))
def test_nothing_is_spent_at_first_and_all_at_the_end(alpha, name):
    spending = spending_named(name)
    spent = [spending(time, alpha) for time in np.linspace(0, 1.5, 31)]
    assert spent[0] == 0
    assert spent[20:] == pytest.approx([alpha] * 11)
    assert np.all(np.diff(spent) >= 0)


@pytest.mark.parametrize("times", [[0.3, 0.5, 1.0, 2.5], [1, 1.1, 1.2, 1.3, 4], [0.01, 1]])
@pytest.mark.parametrize("name", sorted(SPENDING))
def test_a_brownian_motion_leaves_first_at_each_look_as_often_as_was_spent(times, name):
    times = np.array(times)
    spent = np.array([spending_named(name)(time / times[-1], 0.2) for time in times])
    rng = np.random.default_rng(0)
    steps = rng.standard_normal((200_000, len(times))) * np.sqrt(np.diff(times, prepend=0))
    outside = np.abs(steps.cumsum(1) / np.sqrt(times)) > critical_values(times.tolist(), spent.tolist())
    first = np.bincount(np.where(outside.any(1), outside.argmax(1), len(times)), minlength=len(times) + 1)[:-1]
    np.testing.assert_allclose(first.cumsum() / 200_000, spent, atol=0.004)


def test_a_look_that_may_spend_nothing_is_never_left():
    assert critical_values([0.01, 1], [0, 0.05]) == [np.inf, pytest.approx(norm.isf(0.025))]


@pytest.mark.parametrize(
    ("times", "spent"),
    [([1, 1], [0.01, 0.02]), ([2, 1], [0.01, 0.02]), ([0], [0.01]), ([1, 2], [0.02, 0.01]), ([1], [1]), ([1], [])],
)
def test_what_is_no_sequence_of_looks_is_refused(times, spent):
    with pytest.raises(ValueError):  # noqa: PT011
        critical_values(times, spent)


def test_an_unknown_function_is_refused_by_name():
    with pytest.raises(UsageError, match="unknown spending function 'haybittle'; known: obrien-fleming, pocock"):
        spending_named("haybittle")
