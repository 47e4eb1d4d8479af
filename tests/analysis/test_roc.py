"""ROC curves, areas and thresholds: against scikit-learn, by definition, and their intervals by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from testbed.analysis.roc import (
    ClusterBootstrap,
    Positives,
    Ranks,
    largest_accepted,
    rank_among,
    roc,
    smallest_without_alarm,
)
from testbed.analysis.survey import SurveyDesign
from testbed.core.errors import UsageError

scores = st.lists(st.sampled_from([0.0, 1e-9, 0.5, 1.0, 1.5, 2.0, np.inf]), min_size=1, max_size=12)


@given(scores, scores, st.randoms(use_true_random=False))
def test_areas_are_scikit_learns(positive: list[float], negative: list[float], random: object) -> None:
    weight = np.array([random.randint(1, 9) for _ in positive], float)  # type: ignore[attr-defined]
    finite = {np.inf: 99.0}
    labels = [1] * len(positive) + [0] * len(negative)
    expected = roc_auc_score(
        labels,
        [finite.get(s, s) for s in positive + negative],
        sample_weight=[*weight, *np.ones(len(negative))],
    )
    curve = roc(positive, weight, negative)
    assert np.trapezoid(curve.detection, curve.false_alarm) == pytest.approx(expected)
    assert np.average(rank_among(positive, negative), weights=weight) == pytest.approx(expected)


@given(scores, scores)
def test_corners_are_the_shares_above_their_threshold(positive: list[float], negative: list[float]) -> None:
    curve = roc(positive, np.ones(len(positive)), negative)
    assert (np.diff(curve.false_alarm) >= 0).all()
    assert (np.diff(curve.detection) >= 0).all()
    assert (curve.false_alarm[0], curve.detection[0], curve.false_alarm[-1], curve.detection[-1]) == (0, 0, 1, 1)
    for level in set(negative):
        at, below = (np.array(curve)[1:, curve.threshold == level])[:, :2].T if np.isfinite(level) else (None, None)
        if at is not None:
            assert at == pytest.approx([np.mean(np.array(s) > level) for s in (negative, positive)])
            assert below == pytest.approx([np.mean(np.array(s) >= level) for s in (negative, positive)])


def test_a_curve_needs_both_kinds() -> None:
    for positive, negative in (([], [1.0]), ([1.0], [])):
        with pytest.raises(UsageError, match="one of the two is missing"):
            roc(positive, np.ones(len(positive)), negative)


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


def interval(
    values: NDArray, negative: NDArray, weight: NDArray, seed: int, replicates: int = 199
) -> tuple[float, float, float]:
    strata, n = values.shape
    stratum = np.repeat(np.arange(strata), n)
    design = SurveyDesign(stratum, weight[stratum], np.arange(values.size))
    positives = Positives(design, np.ones(values.size, bool))
    ranks = Ranks.exact(rank_among(values.reshape(-1), negative)[:, None])
    replicated = ClusterBootstrap(design, replicates, seed).sums(positives.columns(ranks))
    (found,) = positives.aucs(ranks, replicated)
    return found.low, found.auc, found.high


def test_intervals_cover_the_area_of_the_population() -> None:
    rng = np.random.default_rng(1)
    weight = np.array([1.0, 5.0, 2.0, 8.0, 1.0]) * 200
    everything, negative = population(rng, 5, 1000)
    truth = np.average(rank_among(everything.reshape(-1), negative).reshape(5, -1).mean(1), weights=weight)
    covered = 0
    for trial in range(300):
        drawn = np.stack([rng.choice(row, 12, replace=False) for row in everything])
        low, _, high = interval(drawn, negative, weight, trial)
        covered += low <= truth <= high
    assert covered >= 0.90 * 300  # a percentile bootstrap of 60 faults: a little short of 0.95


def test_one_draw_per_stratum_borrows_the_spread_of_strata_that_are_alike() -> None:
    rng = np.random.default_rng(2)
    values, negative = population(rng, 40, 1)
    low, area, high = interval(values, negative, np.ones(40) * 100, 0)
    assert low < area - 0.05
    assert high > area + 0.02


def test_a_perfect_area_is_not_certain() -> None:
    """Sixty of sixty beyond every negative: as sure as 60 of 60 events are, no surer."""
    low, area, high = interval(np.full((5, 12), 9.0), np.zeros(8), np.ones(5) * 100, 0)
    assert (area, high) == (1.0, 1.0)
    assert low == pytest.approx(1 - 3.7 / 60, abs=0.01)
    low, area, high = interval(np.full((5, 12), -9.0), np.zeros(8), np.ones(5) * 100, 0)
    assert (low, area) == (0.0, 0.0)
    assert high == pytest.approx(3.7 / 60, abs=0.01)


def test_images_of_one_fault_are_one_draw() -> None:
    rng = np.random.default_rng(3)
    per_fault = rng.choice([-5.0, 5.0], 40)
    negative = np.zeros(5)
    once = interval(per_fault[None], negative, np.array([1e4]), 0)
    stratum = np.zeros(400, int)
    design = SurveyDesign(stratum, np.full(400, 1e4), np.repeat(np.arange(40), 10))
    positives = Positives(design, np.ones(400, bool))
    ranks = Ranks.exact(rank_among(np.repeat(per_fault, 10), negative)[:, None])
    (ten,) = positives.aucs(ranks, ClusterBootstrap(design, 199, 0).sums(positives.columns(ranks)))
    assert (ten.low, ten.auc, ten.high) == pytest.approx(once)
    assert (ten.n_rows, ten.n_clusters) == (400, 40)


def test_strata_weigh_by_their_population() -> None:
    values = np.array([[-5.0] * 10, [5.0] * 10])
    for weight in ([1.0, 3.0], [3.0, 1.0]):
        _, area, _ = interval(values, np.zeros(4), np.array(weight) * 100, 0)
        assert area == pytest.approx(weight[1] / sum(weight))


def test_scores_that_are_not_known_exactly_widen_the_interval() -> None:
    rng = np.random.default_rng(4)
    values, negative = population(rng, 5, 12)
    design = SurveyDesign(np.repeat(np.arange(5), 12), np.full(60, 100.0), np.arange(60))
    positives = Positives(design, np.ones(60, bool))

    def around(error: float) -> Ranks:
        return Ranks(*(rank_among(values.reshape(-1) + by, negative)[:, None] for by in (0, -error, error)))

    def found(ranks: Ranks) -> tuple[float, float, float]:
        sums = ClusterBootstrap(design, 199, 0).sums(positives.columns(ranks))
        (area,) = positives.aucs(ranks, sums)
        return area.low, area.auc, area.high

    exact, loose = found(Ranks.exact(around(0).middle)), found(around(0.5))
    assert loose[0] < exact[0]
    assert loose[1] == exact[1]
    assert loose[2] > exact[2]
    assert found(around(0.0)) == exact
