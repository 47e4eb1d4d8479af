"""Hypothetical protection: what would be left if a covered site lost all of an event, along the order in which places would be
chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from testbed.analysis.survey import RowDomains
from testbed.compare.side import compared_rate
from testbed.core.arrays import Bools, Float64s
from testbed.protect.paired.model_pairs import ModelPairs
from testbed.protect.paired.record import EventName
from testbed.protect.placement.choice import CoverageProblem, best_choice, greedy_order
from testbed.protect.tradeoff.record import CurveCost, CurveStep, HypotheticalCurve

_EXACT = 16
"""Costs at which the best choice is made, at most."""


@dataclass(frozen=True)
class CostedPlace:
    """A place that could be taken. covers: sites, weights among them; percent: of the plain file."""

    name: str
    covers: frozenset[str]
    percent: float


def hypothetical_curve(
    rows: ModelPairs, event: EventName, places: Sequence[CostedPlace], passes: Sequence[str], cost: CurveCost
) -> HypotheticalCurve | None:
    """The curve of one fault model's event. rows: of a plain campaign; places: those of the passes, costs in per cent of the
    plain file's ``cost``. None where the plain model had no such event."""
    event_sites = _EventSites.of(rows, event)
    if event_sites is None:
        return None
    problem = event_sites.problem(places)
    order = greedy_order(problem)
    greedy = [event_sites.step(problem, (), None)]
    for count in range(1, len(order) + 1):
        greedy.append(event_sites.step(problem, order[:count], places[order[count - 1]].name))
    costs = sorted({step.cost_percent for step in greedy[1:]})
    chosen = sorted({round(position) for position in np.linspace(0, len(costs) - 1, min(_EXACT, len(costs)))})
    exact = [
        event_sites.step(problem, best_choice(replace(problem, budget=budget)), None)
        for budget in (costs[position] for position in chosen)
    ]
    return HypotheticalCurve(
        **rows.of_model,
        event=event,
        passes=list(passes),
        cost=cost,
        before=compared_rate(rows.design.estimate(event_sites.before, rows.confidence)),
        greedy=greedy,
        exact=exact,
    )


@dataclass(frozen=True, eq=False)
class _EventSites:
    """Where an event was. before: (rows,); codes: (rows,) of the sites; shares: (sites,) of the event."""

    rows: ModelPairs
    before: Bools
    sites: tuple[str, ...]
    codes: np.ndarray
    shares: Float64s
    domains: RowDomains
    rate: float

    @classmethod
    def of(cls, rows: ModelPairs, event: EventName) -> _EventSites | None:
        before = rows.judged.before(event)
        if not before.any():
            return None
        sites, codes = np.unique(rows.rows["site"].to_numpy(str), return_inverse=True)
        design = rows.design
        weights = design.row_weight[design.stratum_of_cluster][design.cluster_of_row]
        totals = np.bincount(codes[before], weights[before], minlength=len(sites))
        rate = float(totals.sum() / weights.sum())
        return cls(rows, before, tuple(sites.tolist()), codes, totals / totals.sum(), design.domains(before), rate)

    def problem(self, places: Sequence[CostedPlace]) -> CoverageProblem:
        """The choice among places, without a budget."""
        covers = np.array([[site in spot.covers for site in self.sites] for spot in places], bool)
        costs = np.array([spot.percent for spot in places])
        return CoverageProblem(covers.reshape(len(places), len(self.sites)), self.shares, costs, np.inf)

    def step(self, problem: CoverageProblem, chosen: Sequence[int], last: str | None) -> CurveStep:
        """What the chosen places cost and would leave."""
        covered: Bools = np.atleast_1d(problem.covers[list(chosen)].any(axis=0))
        estimate = self.domains.estimates(covered[self.codes], self.rows.confidence)[True]
        return CurveStep(
            places=len(chosen),
            last=last,
            cost_percent=problem.cost(chosen),
            share=estimate.rate,
            low=estimate.low,
            high=estimate.high,
            left=self.rate * (1 - estimate.rate),
        )
