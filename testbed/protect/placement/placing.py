"""Choice of the places that protection takes, under a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from onnx import ModelProto
from pydantic import JsonValue

from testbed.bench.timing import Budget, Ratio
from testbed.core.arrays import Float64s
from testbed.core.errors import UsageError
from testbed.protect.contract import CalibrationSet, ProtectionPass
from testbed.protect.graph import GraphEditor
from testbed.protect.placement.candidates import Candidate, candidates_of, narrowed
from testbed.protect.placement.choice import CoverageProblem, best_choice, greedy_choice
from testbed.protect.placement.costs import PlaceCost, latency_costs, latency_ratio, operation_costs
from testbed.protect.placement.gains import GainShare, SiteGains, measured_gains, score_gains
from testbed.protect.placement.operations import operations_of
from testbed.sensitivity.rank.catalogue import METHODS
from testbed.sensitivity.rank.ranking import RankedBy

CostUnit = Literal["latency", "macs"]
_ROUNDS = 5
"""How often a choice that costs more than the budget as a whole is made again."""


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
            raise UsageError(f"places are chosen by measured, {', '.join(METHODS)}, not by {self.by!r}")
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

    problem, chosen, latency, joint = _within_budget(candidates, gains, costs, request, timed)
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
        latency=latency,
        joint_percent=joint,
        places=weighed,
    )
    return placement, steps


def _within_budget(
    candidates: Sequence[Candidate],
    gains: SiteGains,
    costs: Sequence[PlaceCost],
    request: PlacementRequest,
    timed: Callable[[Sequence[int]], Ratio | None],
) -> tuple[CoverageProblem, tuple[int, ...], Ratio | None, float]:
    """The problem as it was solved last, its best choice, that choice's latency, and what was added to each cost.

    Costs of places alone don't add up: of a choice that is above the budget as a whole, what it costs more than its places
    alone is divided among them, added to the cost of every place, and the choice is made again.
    """
    covers = np.array([[site in candidate.covers for site in gains.sites] for candidate in candidates])
    alone = np.array([cost.percent for cost in costs])
    joint, rounds = 0.0, 0
    while True:
        rounds += 1
        problem = CoverageProblem(covers, gains.shares, alone + joint, request.budget_percent)
        _check_affordable(candidates, problem.costs, request)
        chosen = best_choice(problem)
        if not chosen:
            raise UsageError(
                f"no place within {request.budget_percent:g} % gains anything by {request.by}: widen --budget or --where"
            )
        latency = timed(chosen)
        if latency is None or 100 * (latency.value - 1) <= request.budget_percent or rounds == _ROUNDS:
            return problem, chosen, latency, joint
        joint += (100 * (latency.value - 1) - problem.cost(chosen)) / len(chosen)


def _gains(model: Path, plain: ModelProto, request: PlacementRequest) -> SiteGains:
    if request.by == "measured":
        return measured_gains(model, None if request.campaign is None else Path(request.campaign))
    return score_gains(model, request.by, GraphEditor(plain).sites)


def _check_affordable(candidates: Sequence[Candidate], costs: Float64s, request: PlacementRequest) -> None:
    cheapest = int(costs.argmin())
    if costs[cheapest] > request.budget_percent:
        candidate = candidates[cheapest]
        raise UsageError(
            f"a budget of {request.budget_percent:g} % of {request.cost} fits no place: the cheapest,"
            f" {candidate.step} of {candidate.name}, costs {costs[cheapest]:.3g} %"
        )
