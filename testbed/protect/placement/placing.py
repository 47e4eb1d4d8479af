"""Choice of the places that protection takes, under a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from onnx import ModelProto
from pydantic import JsonValue

from testbed.bench.operations import operations_of
from testbed.bench.timing import Budget, Ratio
from testbed.core.arrays import Float64s
from testbed.core.errors import UsageError
from testbed.core.words.nearest import unknown
from testbed.protect.contract import CalibrationSet, ProtectionPass
from testbed.protect.graph import GraphEditor
from testbed.protect.placement.candidates import Candidate, candidates_of, narrowed
from testbed.protect.placement.choice import CoverageProblem, best_choice, greedy_choice
from testbed.protect.placement.costs import PlaceCost, latency_costs, latency_ratio, operation_costs
from testbed.protect.placement.gains import GainShare, SiteGains, measured_gains, score_gains
from testbed.sensitivity.rank.catalogue import METHODS
from testbed.sensitivity.rank.ranking import RankedBy

CostUnit = Literal["latency", "macs"]
_ROUNDS = 6
"""How many choices are timed as a whole, at most."""


@dataclass(frozen=True)
class PlacementRequest:
    """What is asked for. by: "measured" in ``campaign`` (by default the model's own folder), or a score; budget_percent: of the
    plain file's latency at ``batch`` images, or of its MACs."""

    by: RankedBy
    budget_percent: float
    cost: CostUnit = "latency"
    campaign: str | None = None
    batch: int = 1

    def check(self) -> None:
        """Raises UsageError for a score or unit that there is not, a budget of nothing, or a campaign that is of no use."""
        if self.by != "measured" and self.by not in METHODS:
            raise UsageError(unknown("score", self.by, ("measured", *METHODS)))
        if self.cost not in ("latency", "macs"):
            raise UsageError(f"a budget is of latency or macs, not of {self.cost!r}")
        if not 0 < self.budget_percent < np.inf:
            raise UsageError(f"a budget is above 0 %, not {self.budget_percent:g} %")
        if self.campaign is not None and self.by != "measured":
            raise UsageError(f"a campaign says where to protect with --by measured, not with --by {self.by}")
        if self.batch < 1:
            raise UsageError(f"latency is of one image or more at a time, not {self.batch}")


@dataclass(frozen=True)
class WeighedPlace:
    """A place with what it gains alone and what it costs. n: rows behind the gain; chosen, greedy: whether it is in the best
    choice, and in the greedy one."""

    step: str
    name: str
    gain: GainShare
    n: int | None
    cost: PlaceCost
    chosen: bool
    greedy: bool


@dataclass(frozen=True)
class Placement:
    """Places chosen under a budget. gain, cost_percent: expected of all chosen; greedy_gain, greedy_cost_percent: of the greedy
    choice; latency: of an engine with all that were chosen over the plain one's, as measured; joint_percent: what each place
    costs more in company than alone, in per cent of latency, from whole choices that were above the budget."""

    by: RankedBy
    budget_percent: float
    cost: CostUnit
    engine: str
    precision: str
    batch: int
    campaign: str | None
    gain: GainShare
    cost_percent: float
    greedy_gain: float
    greedy_cost_percent: float
    latency: Ratio | None
    joint_percent: float
    places: tuple[WeighedPlace, ...]

    @property
    def chosen(self) -> tuple[WeighedPlace, ...]:
        """The places that protection takes."""
        return tuple(weighed for weighed in self.places if weighed.chosen)

    def to_json(self) -> dict[str, JsonValue]:
        """JSON-ready."""
        return asdict(self)


def choose_places(
    model: Path,
    plain: ModelProto,
    passes: Sequence[ProtectionPass],
    request: PlacementRequest,
    calibration: CalibrationSet,
    timing: Budget | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> tuple[Placement, tuple[ProtectionPass, ...]]:
    """The placement, and the passes at the chosen places alone. model: its run folder; plain: its file; calibration: a few
    images and the engine that is timed, by default for `bench`'s time.

    Raises UsageError where nothing fits the budget, or nothing that fits gains anything.
    """
    request.check()
    timing = timing or Budget()
    gains = _gains(model, plain, request)
    counted = operations_of(plain)
    candidates = candidates_of(plain, passes, calibration, counted)
    if request.cost == "macs":
        costs = operation_costs(candidates, counted.total_macs)
    else:
        costs = latency_costs(plain, passes, candidates, calibration, request.batch, timing, notify)

    def timed(chosen: Sequence[int]) -> Ratio | None:
        if request.cost == "macs":
            return None
        notify(f"latency of all {len(chosen)} places that were chosen")
        steps = narrowed(passes, [candidates[index] for index in chosen])
        return latency_ratio(plain, steps, calibration, request.batch, timing)[1]

    problem = problem_of(candidates, gains, costs, request.budget_percent)
    _check_affordable(candidates, problem.costs, request)
    choice = within_budget(problem, timed)
    if choice is None:
        raise UsageError(
            f"no place within {request.budget_percent:g} % gains anything by {request.by}: widen --budget or --where"
        )
    problem, chosen = choice.problem, choice.chosen
    greedy = greedy_choice(problem)
    steps = narrowed(passes, [candidates[index] for index in chosen])
    weighed = tuple(
        WeighedPlace(c.step, c.name, gains.of(c.covers), gains.rows(c.covers), cost, i in chosen, i in greedy)
        for i, (c, cost) in enumerate(zip(candidates, costs, strict=True))
    )
    placement = Placement(
        by=request.by,
        budget_percent=request.budget_percent,
        cost=request.cost,
        engine=calibration.engines[0],
        precision=calibration.precision,
        batch=request.batch,
        campaign=str(request.campaign or model) if request.by == "measured" else None,
        gain=gains.of({site for index in chosen for site in candidates[index].covers}),
        cost_percent=problem.cost(chosen),
        greedy_gain=problem.gain(greedy),
        greedy_cost_percent=problem.cost(greedy),
        latency=choice.latency,
        joint_percent=choice.joint_percent,
        places=weighed,
    )
    return placement, steps


@dataclass(frozen=True)
class TimedChoice:
    """A choice, and the latency of all its places together; None where the budget is not of latency. problem: what it
    solves; joint_percent: what was added to the cost of every place."""

    problem: CoverageProblem
    chosen: tuple[int, ...]
    latency: Ratio | None
    joint_percent: float

    @property
    def latency_percent(self) -> float:
        """What the choice adds to the latency of the plain file, as measured."""
        return 0.0 if self.latency is None else 100 * (self.latency.value - 1)

    @property
    def is_affordable(self) -> bool:
        """Whether it keeps to the budget as a whole."""
        return self.latency_percent <= self.problem.budget


def within_budget(problem: CoverageProblem, timed: Callable[[Sequence[int]], Ratio | None]) -> TimedChoice | None:
    """The choice that gains most and keeps to the budget as a whole; the last that was made where none does, None where no
    place is worth anything.

    Costs of places alone do not add up. Of a choice that is above the budget, what it costs more than its places is divided
    among them and added to the cost of every place; how much has to be added is then searched by halving.
    """
    best: TimedChoice | None = None
    last: TimedChoice | None = None
    low, high, joint = 0.0, np.inf, 0.0
    for _ in range(_ROUNDS):
        dearer = replace(problem, costs=problem.costs + joint)
        chosen = best_choice(dearer)
        if not chosen and joint == 0:
            return None
        if not chosen:
            high = joint
        else:
            last = TimedChoice(dearer, chosen, timed(chosen), joint)
            if last.is_affordable:
                high = joint
                if best is None or dearer.gain(chosen) > best.problem.gain(best.chosen):
                    best = last
                if joint == 0:
                    break
            else:
                low = joint
                joint += (last.latency_percent - dearer.cost(chosen)) / len(chosen)
        if np.isfinite(high):
            joint = (low + high) / 2
    return best or last


def _gains(model: Path, plain: ModelProto, request: PlacementRequest) -> SiteGains:
    if request.by == "measured":
        return measured_gains(model, None if request.campaign is None else Path(request.campaign))
    return score_gains(model, request.by, GraphEditor(plain).sites)


def problem_of(
    candidates: Sequence[Candidate], gains: SiteGains, costs: Sequence[PlaceCost], budget_percent: float
) -> CoverageProblem:
    """The problem of choosing among candidates, each at its cost alone."""
    covers = np.array([[site in candidate.covers for site in gains.sites] for candidate in candidates])
    return CoverageProblem(covers, gains.shares, np.array([cost.percent for cost in costs]), budget_percent)


def _check_affordable(candidates: Sequence[Candidate], costs: Float64s, request: PlacementRequest) -> None:
    cheapest = int(costs.argmin())
    if costs[cheapest] > request.budget_percent:
        candidate = candidates[cheapest]
        raise UsageError(
            f"a budget of {request.budget_percent:g} % of {request.cost} fits no place: the cheapest,"
            f" {candidate.step} of {candidate.name}, costs {costs[cheapest]:.3g} %"
        )
