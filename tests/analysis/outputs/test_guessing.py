import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from testbed.analysis.outputs.guessing import accuracy_against_guessing, guessing_warning, share_warning


def of(right, n, classes=10):
    """So many right of n, labels and wrong predictions in turns."""
    labels = np.arange(n) % classes
    return accuracy_against_guessing(np.where(np.arange(n) < right, labels, (labels + 1) % classes), labels, classes)


def test_a_tenth_of_ten_classes_is_guessing():
    found = of(20, 200)
    assert found.is_guessing
    assert found.describe() == (
        "accuracy 10.00 % [6.22, 15.02] of 200 images is no more than guessing gives (10.00 % of 10 classes); are"
        " preprocessing, order of the classes and weights those it was trained with?"
    )
    assert not of(140, 200).is_guessing
    assert of(1, 200).is_guessing  # less than guessing is no better


@given(st.integers(1, 400), st.integers(2, 20), st.data())
def test_the_line_is_that_of_an_exact_test(n, classes, data):
    """Against 1 / classes, one-sided at 2.5 %: SciPy's binomial test."""
    right = data.draw(st.integers(0, n))
    found = of(right, n, classes)
    p = scipy.stats.binomtest(right, n, found.guessed, "greater").pvalue
    if abs(p - 0.025) > 1e-6:
        assert found.is_guessing == (p > 0.025)


@given(st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_what_guessing_gets_is_the_expected_agreement_of_kappa(classes, seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.r_[np.arange(classes), rng.choice(classes, 50, p=rng.dirichlet(np.ones(classes)))])
    predicted = rng.choice(classes, len(labels), p=rng.dirichlet(np.ones(classes)))
    found = accuracy_against_guessing(predicted, labels, classes)
    if found.guessed > 1 / classes + 1e-9 and found.guessed < 1 - 1e-9:
        kappa = (found.value - found.guessed) / (1 - found.guessed)
        assert kappa == pytest.approx(cohen_kappa_score(labels, predicted), abs=1e-9)


def test_naming_the_largest_class_always_is_guessing():
    labels = np.r_[np.zeros(900, int), np.ones(100, int)]
    constant = accuracy_against_guessing(np.zeros(1000, int), labels, 2)
    assert (constant.value, constant.guessed, constant.is_guessing) == (0.9, 0.9, True)
    wise = labels.copy()
    wise[:50], wise[-40:] = 1, 0  # 91 % right, but 60 % of the rare class are found
    assert not accuracy_against_guessing(wise, labels, 2).is_guessing


def test_images_of_one_class_are_held_against_one_in_so_many():
    labels = np.zeros(600, int)
    predicted = np.where(np.arange(600) < 417, 0, 3)
    assert not accuracy_against_guessing(predicted, labels, 10).is_guessing
    assert accuracy_against_guessing(np.where(np.arange(600) < 4, 0, 3), labels, 10).is_guessing


def test_no_prediction_is_a_wrong_one_and_one_class_tells_nothing():
    assert accuracy_against_guessing([-1, -1, 0], [0, 1, 0], 2).value == pytest.approx(1 / 3)
    assert not accuracy_against_guessing([0, 0, 0], [0, 0, 0], 1).is_guessing


def test_a_share_alone_is_held_against_one_in_so_many():
    assert share_warning(0.1, 200, 10) == of(20, 200).describe()
    assert share_warning(0.7, 200, 10) is None
    assert share_warning(float("nan"), 0, 10) is None
    assert guessing_warning([], [], 10) is None
    assert guessing_warning([1, 2], [0, 1], 3) is not None
