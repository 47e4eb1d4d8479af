"""Choices that cost more together than alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from testbed.bench.timing import Ratio
from testbed.protect.placement.choice import CoverageProblem
from testbed.protect.placement.placing import within_budget

PROBLEM = CoverageProblem(np.eye(20, dtype=bool), np.arange(20, 0, -1.0), np.full(20, 0.1), 5)
"""All of twenty places cost 2 by what each costs alone."""


def squared(chosen: Sequence[int]) -> Ratio:
    """A tenth of a per cent alone, and 40 % all together: 7 places are the most that keep to 5 %."""
    return Ratio(1 + len(chosen) ** 2 / 1000, None, None)


def test_the_budget_holds_for_all_places_together() -> None:
    choice = within_budget(PROBLEM, squared)
    assert choice is not None
    assert choice.is_affordable
    assert choice.chosen == (0, 1, 2, 3, 4, 5, 6)


def test_costs_that_add_up_are_left_as_they_are() -> None:
    choice = within_budget(PROBLEM, lambda chosen: Ratio(1 + len(chosen) / 1000, None, None))
    assert choice is not None
    assert len(choice.chosen) == 20
    assert choice.joint_percent == 0


def test_a_choice_that_never_keeps_to_the_budget_is_told() -> None:
    choice = within_budget(PROBLEM, lambda _: Ratio(1.5, None, None))
    assert choice is not None
    assert not choice.is_affordable


def test_nothing_is_chosen_where_nothing_gains() -> None:
    worthless = CoverageProblem(np.eye(2, dtype=bool), np.zeros(2), np.ones(2), 5)
    assert within_budget(worthless, lambda _: None) is None
