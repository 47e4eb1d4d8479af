"""The best places under a budget: exact by integer programming, and greedy beside it.

A site that two places cover gains once: the problem is the budgeted maximum coverage, which is the 0/1 knapsack where no
two places cover the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from testbed.core.arrays import Float64s
from testbed.core.errors import TestbedError
from testbed.core.process.native_output import native_stdout_to_stderr

_SLACK = 1e-9  # of a budget, for sums of rounded costs


@dataclass(frozen=True)
class CoverageProblem:
    """Places, what they cover and cost, and what sites gain.

    covers: (places, sites) booleans; gains: (sites,) none negative; costs: (places,) none negative, in the budget's unit.
    """

    covers: np.ndarray
    gains: Float64s
    costs: Float64s
    budget: float

    def gain(self, chosen: Sequence[int]) -> float:
        """What these places gain together."""
        return float(self.gains[self.covers[list(chosen)].any(axis=0)].sum()) if chosen else 0.0

    def cost(self, chosen: Sequence[int]) -> float:
        """What these places cost together."""
        return float(self.costs[list(chosen)].sum()) if chosen else 0.0

    def is_affordable(self, chosen: Sequence[int]) -> bool:
        """Whether these places keep to the budget."""
        return self.cost(chosen) <= self.budget + _SLACK * max(1.0, self.budget)


def best_choice(problem: CoverageProblem) -> tuple[int, ...]:
    """The places that gain most within the budget, found by HiGHS to optimality; none of them is idle."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array, eye_array, hstack

    places, sites = problem.covers.shape
    scale = max(float(problem.gains.sum()), np.finfo(float).tiny)
    objective = np.concatenate([np.zeros(places), -problem.gains / scale])
    covered = hstack([-csr_array(problem.covers.T.astype(float)), eye_array(sites)])
    spent = np.concatenate([problem.costs, np.zeros(sites)])[None]
    with native_stdout_to_stderr():  # HiGHS has debugging lines that no option turns off
        result = milp(
            objective,
            integrality=np.concatenate([np.ones(places), np.zeros(sites)]),
            bounds=Bounds(0, 1),
            constraints=[LinearConstraint(covered, -np.inf, 0), LinearConstraint(spent, -np.inf, problem.budget)],
            options={"mip_rel_gap": 0.0},
        )
    if result.x is None:
        raise TestbedError(f"the choice of places was not solved: {result.message}")
    chosen = tuple(np.flatnonzero(result.x[:places] > 0.5).tolist())
    return _without_idle(problem, chosen)


def greedy_choice(problem: CoverageProblem) -> tuple[int, ...]:
    """Places in the order of what they add per cost, as long as they fit."""
    return tuple(sorted(greedy_order(problem)))


def greedy_order(problem: CoverageProblem) -> list[int]:
    """The same places, in the order in which they are taken."""
    chosen: list[int] = []
    while True:
        best, best_rate = None, 0.0
        for index in range(len(problem.costs)):
            if index in chosen or not problem.is_affordable([*chosen, index]):
                continue
            added = problem.gain([*chosen, index]) - problem.gain(chosen)
            rate = added / max(float(problem.costs[index]), _SLACK)
            if added > 0 and rate > best_rate:
                best, best_rate = index, rate
        if best is None:
            return chosen
        chosen.append(best)


def _without_idle(problem: CoverageProblem, chosen: tuple[int, ...]) -> tuple[int, ...]:
    """The chosen without those whose absence loses nothing, the dearest first."""
    kept = list(chosen)
    for index in sorted(chosen, key=lambda index: -problem.costs[index]):
        rest = [other for other in kept if other != index]
        if not (problem.gains[_only(problem, index, rest)] > 0).any():
            kept = rest
    return tuple(kept)


def _only(problem: CoverageProblem, index: int, rest: Sequence[int]) -> np.ndarray:
    """(sites,) those that the place covers and none of the rest does."""
    others = problem.covers[list(rest)].any(axis=0) if rest else np.zeros(problem.covers.shape[1], bool)
    return np.asarray(problem.covers[index] & ~others)
