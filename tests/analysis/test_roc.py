"""Areas under ROC curves, and thresholds: against scikit-learn, by definition, and their intervals by simulation."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from testbed.analysis.roc import areas, concordance, largest_accepted, rank_among, smallest_without_alarm
from testbed.analysis.survey import SurveyDesign

scores = st.lists(st.sampled_from([0.0, 1e-9, 0.5, 1.0, 1.5, 2.0, np.inf]), min_size=1, max_size=12)


@given(scores, scores, st.randoms(use_true_random=False))
def test_areas_are_scikit_learns(positive: list[float], negative: list[float], random: Random) -> None:
    weight = np.array([random.randint(1, 9) for _ in positive], np.float64)
    finite = {np.inf: 99.0}
    labels = [1] * len(positive) + [0] * len(negative)
    expected = roc_auc_score(
        labels,
        [finite.get(s, s) for s in positive + negative],
        sample_weight=[*weight, *np.ones(len(negative))],
    )
    assert np.average(rank_among(positive, negative), weights=weight) == pytest.approx(expected)


def test_no_alarm_bound_is_the_rule_of_three() -> None:
    threshold, bound = smallest_without_alarm(np.linspace(0, 1e-6, 300))
    assert threshold == 1e-6
    assert bound == pytest.approx(3 / 300, rel=0.01)
    rng = np.random.default_rng(0)
    beyond = [1 - smallest_without_alarm(rng.random(40))[0] for _ in range(4000)]  # of a uniform score: its true rate
    assert np.mean(np.array(beyond) <= smallest_without_alarm(np.ones(40))[1]) == pytest.approx(0.95, abs=0.015)


@given(st.lists(st.sampled_from([0.0, 1e-7, 2e-7, 1.0, 3.0, np.inf]), min_size=1, max_size=9), st.integers(0, 9))
def test_the_largest_accepted_threshold_is_the_last_before_too_few_are_flagged(scores: list[float], few: int) -> None:
    values = np.array(scores)

    def accepted(threshold: float) -> bool:
        return int((values > threshold).sum()) >= few

    found = largest_accepted(values, accepted)
    if found is None:
        assert not accepted(0.0)
    else:
        assert accepted(min(found, 1e300))
        assert found == np.inf or not accepted(float(np.nextafter(found, np.inf)))


# ---- intervals


def population(rng: np.random.Generator, strata: int, per_stratum: int) -> tuple[NDArray, NDArray]:
    """Scores of every fault of each stratum: some tell themselves from noise, some do not."""
    centre = rng.uniform(-1, 3, strata)
    return rng.normal(centre[:, None], 1.0, (strata, per_stratum)), rng.normal(0, 1, 25)


def area(
    values: NDArray, negative: NDArray, weight: NDArray, alike: NDArray | None = None
) -> tuple[float, float, float]:
    """(low, area, high) of scores (strata, n), each a fault."""
    strata, n = values.shape
    stratum = np.repeat(np.arange(strata), n)
    collapse = None if alike is None else alike[stratum]
    design = SurveyDesign(stratum, weight[stratum], np.arange(values.size), collapse)
    found = areas(design.domains(np.zeros(values.size)), rank_among(values.reshape(-1), negative))[0.0]
    return found.low, found.rate, found.high


@pytest.mark.parametrize(("strata", "draws"), [(5, 12), (20, 3), (50, 1)])
def test_intervals_cover_the_area_of_the_population(strata: int, draws: int) -> None:
    rng = np.random.default_rng(strata)
    weight = rng.integers(1, 9, strata) * 1e4
    everything, negative = population(rng, strata, 1000)
    truth = np.average(rank_among(everything.reshape(-1), negative).reshape(strata, -1).mean(1), weights=weight)
    covered = 0
    for _ in range(400):
        drawn = np.stack([rng.choice(row, draws, replace=False) for row in everything])
        low, _, high = area(drawn, negative, weight)
        covered += low <= truth <= high
    assert covered >= 371  # a 95 % method has fewer with a probability of 0.02


def test_some_rows_are_a_group_of_their_own() -> None:
    """Only the rows asked about count, by the weight of their stratum and not by how many were drawn there."""
    rng = np.random.default_rng(2)
    stratum, chosen = np.repeat([0, 1], [30, 10]), rng.random(40) < 0.5
    scores, negative = rng.normal(1, 1, 40), rng.normal(0, 1, 9)
    design = SurveyDesign(stratum, np.array([100.0, 900.0])[stratum], np.arange(40))
    found = areas(design.domains(chosen), rank_among(scores, negative))[True]
    weight = np.array([100 / 30, 900 / 10])[stratum]
    expected = roc_auc_score(
        [1] * chosen.sum() + [0] * 9, [*scores[chosen], *negative], sample_weight=[*weight[chosen], *np.ones(9)]
    )
    assert found.rate == pytest.approx(expected)
    assert found.n_rows == chosen.sum()


def test_one_draw_per_stratum_borrows_the_spread_of_strata_that_are_alike() -> None:
    rng = np.random.default_rng(2)
    kind = np.repeat([0, 1], 20)
    values, negative = rng.normal(3.0 * kind - 1.5, 0.1)[:, None], rng.normal(0, 1, 200)
    low, middle, high = area(values, negative, np.full(40, 1e4), kind)
    wide = area(values, negative, np.full(40, 1e4))
    assert wide[0] < low - 0.02 < low < middle < high < high + 0.02 < wide[2]


def test_a_perfect_area_is_not_certain() -> None:
    """Sixty of sixty beyond every negative: as sure as 60 of 60 events are, no surer."""
    low, middle, high = area(np.full((5, 12), 9.0), np.zeros(8), np.ones(5) * 100)
    assert (middle, high) == (1.0, 1.0)
    assert low == pytest.approx(1 - 3.7 / 60, abs=0.01)
    low, middle, high = area(np.full((5, 12), -9.0), np.zeros(8), np.ones(5) * 100)
    assert (low, middle) == (0.0, 0.0)
    assert high == pytest.approx(3.7 / 60, abs=0.01)


def test_images_of_one_fault_are_one_draw() -> None:
    rng = np.random.default_rng(3)
    per_fault, negative = rng.choice([-5.0, 5.0], 40), np.zeros(5)
    once = area(per_fault[None], negative, np.array([1e4]))
    design = SurveyDesign(np.zeros(400, int), np.full(400, 1e4), np.repeat(np.arange(40), 10))
    ten = areas(design.domains(np.zeros(400)), rank_among(np.repeat(per_fault, 10), negative))[0.0]
    assert (ten.low, ten.rate, ten.high) == pytest.approx(once)
    assert (ten.n_rows, ten.n_clusters) == (400, 40)


@given(st.integers(0, 10**6))
def test_concordance_is_scikit_learns_within_one_group_and_a_mean_over_pairs_in_several(seed: int) -> None:
    random = np.random.default_rng(seed)
    score, group, event = random.integers(0, 4, 30), random.integers(0, 3, 30), random.random(30) < 0.4
    weight = random.integers(1, 5, 30).astype(np.float64)
    tables = np.zeros((2, 3, 4))
    np.add.at(tables, (event.astype(int), group, score), weight)
    if 0 < event.sum() < 30:
        pooled = concordance(tables[1].sum(0)[None], tables[0].sum(0)[None])
        assert pooled == pytest.approx(roc_auc_score(event, score, sample_weight=weight))
    pairs = [
        (weight[i] * weight[j], (score[i] > score[j]) + 0.5 * (score[i] == score[j]))
        for i in np.flatnonzero(event)
        for j in np.flatnonzero(~event)
        if group[i] == group[j]
    ]
    if pairs:
        times, wins = np.array(pairs).T
        assert concordance(tables[1], tables[0]) == pytest.approx(np.average(wins, weights=times))
    else:
        assert np.isnan(concordance(tables[1], tables[0]))
