"""The exact choice against every subset, and greedy beside it."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.protect.placement.choice import CoverageProblem, best_choice, greedy_choice


@st.composite
def problems(draw: st.DrawFn) -> CoverageProblem:
    places, sites = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    bits = draw(st.lists(st.booleans(), min_size=places * sites, max_size=places * sites))
    gains = draw(st.lists(st.integers(0, 20), min_size=sites, max_size=sites))
    costs = draw(st.lists(st.integers(0, 9), min_size=places, max_size=places))
    covers = np.array(bits).reshape(places, sites)
    return CoverageProblem(covers, np.array(gains, float), np.array(costs, float), draw(st.integers(0, 25)))


def best_by_trying_all(problem: CoverageProblem) -> float:
    """The highest gain of any subset that keeps to the budget, gains added up site by site."""
    indices = range(len(problem.costs))
    subsets = chain.from_iterable(combinations(indices, size) for size in range(len(indices) + 1))
    return max(
        sum(
            gain for gain, covering in zip(problem.gains, problem.covers.T, strict=True) if covering[list(subset)].any()
        )
        for subset in subsets
        if sum(problem.costs[i] for i in subset) <= problem.budget
    )


@settings(max_examples=60, deadline=None)
@given(problems())
def test_the_choice_is_as_good_as_the_best_subset(problem: CoverageProblem) -> None:
    optimum = best_by_trying_all(problem)
    chosen, greedy = best_choice(problem), greedy_choice(problem)
    assert problem.gain(chosen) == pytest.approx(optimum)
    assert problem.is_affordable(chosen)
    assert problem.is_affordable(greedy)
    assert problem.gain(greedy) <= optimum + 1e-9
    for index in chosen:
        assert problem.gain([other for other in chosen if other != index]) < problem.gain(chosen)


def test_greedy_falls_short_where_a_small_place_blocks_a_large_one() -> None:
    problem = CoverageProblem(np.eye(2, dtype=bool), np.array([2.0, 10.0]), np.array([1.0, 10.0]), 10)
    assert best_choice(problem) == (1,)
    assert greedy_choice(problem) == (0,)


def test_a_site_that_two_places_cover_gains_once() -> None:
    covers = np.array([[True, True, False], [False, True, False], [False, False, True]])
    problem = CoverageProblem(covers, np.array([3.0, 4.0, 2.0]), np.array([2.0, 1.0, 1.0]), 3)
    assert best_choice(problem) == (0, 2)
    assert problem.gain((0, 1)) == 7
