"""What protection costs against what it leaves, of all protected models of a plain one, from their finished campaigns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from testbed.bench.latency import Question
from testbed.bench.timing import Budget
from testbed.core.errors import UsageError
from testbed.protect.contract import ORDER
from testbed.protect.paired.record import EventName
from testbed.protect.tradeoff.campaigns import FaultModelKey, TradeoffCampaigns, fault_model_name, read_campaigns
from testbed.protect.tradeoff.costs import costed_models
from testbed.protect.tradeoff.covered import WeightReach, placed_passes
from testbed.protect.tradeoff.curve import hypothetical_curve
from testbed.protect.tradeoff.places import costed_places
from testbed.protect.tradeoff.points import change_of, points_of
from testbed.protect.tradeoff.recommend import Candidates, recommend
from testbed.protect.tradeoff.record import (
    CostedModel,
    CurveCost,
    HypotheticalCurve,
    ProtectionTradeoff,
    RemovalAccount,
    TradeoffPoint,
)
from testbed.protect.tradeoff.removal import EventRows, removal_account
from testbed.protect.tradeoff.rows import WeighedRows

METHOD = (
    "Latency is of the deployed files, without any fault port, in turns: each round runs every engine once, and the"
    " interval of a ratio is over rounds. Rates are of instrumented twins of the same files (joined by their id), of the"
    " plain campaign's population, over paired rows: a row weighs by its stratum, and the images under one fault are a"
    " cluster. What is left is what no alarm told of. A model is dominated where another is shown to cost less, by the"
    " rounds of both, and to leave less, by the rows of both; where only the estimates say so, it is undecided. What is"
    " expected to be removed is the event's share at sites that places cover; a weight is covered by a place that covers"
    " every tensor which first takes it on."
)


@dataclass(frozen=True)
class WeighRequest:
    """What is asked for. batches: images at a time, the first being what counts; timing: of each engine and batch;
    budget_percent: of latency, for the recommendation; curve_cost: what hypothetical places cost."""

    batches: tuple[int, ...] = (1, 8, 32)
    threads: int = 1
    timing: Budget = field(default_factory=Budget)
    budget_percent: float = 5.0
    curve_cost: CurveCost = "macs"

    def check(self) -> None:
        """Raises UsageError for batches of nothing, a budget of nothing, and an unknown cost."""
        if not self.batches or min(self.batches) < 1 or len(set(self.batches)) < len(self.batches):
            raise UsageError("name images per run, 1 or more, each number once: 1,8,32")
        if not 0 < self.budget_percent < np.inf:
            raise UsageError(f"a budget is above 0 %, not {self.budget_percent:g} %")
        if self.curve_cost not in ("macs", "latency"):
            raise UsageError(f"places cost macs or latency, not {self.curve_cost!r}")


def weigh_protection(
    paths: Sequence[Path], request: WeighRequest, notify: Callable[[str], None] = lambda _: None
) -> ProtectionTradeoff:
    """Put protected models beside the plain one: latency, and what they leave of the same faults.

    paths: folders of finished campaigns of one plain model and of what was protected of it, in any order. Raises as
    `read_campaigns` does, EngineError where an engine cannot be built.
    """
    request.check()
    campaigns = read_campaigns(paths)
    rows = WeighedRows.of(campaigns)
    engine, precision = campaigns.engine
    question = Question(engine, precision, request.batches, request.threads, request.timing)
    plain, *models = costed_models(campaigns, question, rows.confidence, notify)
    points = [
        point for key in rows.plain for point in points_of(rows, key, campaigns.plain_of[key].path, plain, models)
    ]
    reach = WeightReach.of(campaigns.plain.campaigns[0])
    removals, curves = list(_removals(rows, reach, models)), list(_curves(campaigns, rows, reach, request, notify))
    recommended, why = recommend(_candidates(rows, models, points), request.budget_percent, rows.confidence)
    return ProtectionTradeoff(
        engine=engine,
        precision=precision,
        threads=request.threads,
        confidence=rows.confidence,
        batch=request.batches[0],
        budget_percent=request.budget_percent,
        plain=plain,
        models=models,
        points=points,
        removals=removals,
        curves=curves,
        recommended=recommended,
        why=why,
        notes=[*campaigns.notes, *_notes(campaigns, rows, models)],
        method=METHOD,
    )


def _removals(rows: WeighedRows, reach: WeightReach, models: Sequence[CostedModel]) -> Iterator[RemovalAccount]:
    """Expected and really removed shares, of the models whose files say what their places cover."""
    for key, measured in rows.protected.items():
        for number, (side, pairs) in measured.items():
            passes = placed_passes(side)
            if passes is None:
                continue
            covered = reach.covered(covers for step in passes for covers in step.covers)
            for event in rows.events(key):
                removed = change_of(pairs, event).removed
                account = removal_account(EventRows.of(pairs, event), models[number].name, covered, removed)
                if account is not None:
                    yield account


def _curves(
    campaigns: TradeoffCampaigns,
    rows: WeighedRows,
    reach: WeightReach,
    request: WeighRequest,
    notify: Callable[[str], None],
) -> Iterator[HypotheticalCurve]:
    """One for each set of passes that a model was protected with, fault model and event."""
    sets = {tuple(sorted(set(model.passes) & set(ORDER), key=ORDER.index)) for model in campaigns.protected}
    for passes in sorted(filter(None, sets), key=lambda names: [ORDER.index(name) for name in names]):
        notify(f"places that {', '.join(passes)} could take, and what they would leave")
        side, cost = campaigns.plain.campaigns[0], request.curve_cost
        places = costed_places(side, passes, reach, cost, request.batches[0], request.timing, notify)
        for key, plain in rows.plain.items():
            for event in rows.events(key):
                curve = hypothetical_curve(plain, event, places, passes, cost)
                if curve is not None:
                    yield curve


def _candidates(rows: WeighedRows, models: Sequence[CostedModel], points: Sequence[TradeoffPoint]) -> Candidates:
    """The protected models to recommend one of, by SDC-1; by what is outside the tolerance where there are no classes."""
    event: EventName = "sdc1" if all("sdc1" in rows.events(key) for key in rows.plain) else "outside"
    by_model: dict[str, dict[FaultModelKey, TradeoffPoint]] = {model.name: {} for model in models}
    for point in points:
        if point.event == event and point.model in by_model:
            by_model[point.model][point.target, point.where, point.op] = point
    tables = {key: rows.table(key, event, models) for key in rows.plain}
    return Candidates(models, by_model, tables, "SDC-1" if event == "sdc1" else "outputs outside the tolerance")


def _notes(campaigns: TradeoffCampaigns, rows: WeighedRows, models: Sequence[CostedModel]) -> Iterator[str]:
    """What is missing of some models."""
    for model, deployed in zip(models, campaigns.protected, strict=True):
        if placed_passes(deployed.campaigns[0]) is None:
            yield f"{model.name}: its file does not say what its places cover, so nothing is expected of it"
    for key, side in campaigns.plain_of.items():
        if key not in rows.plain:
            yield f"{fault_model_name(key)} in {side.path} is left out: no campaign of a protected model has it"
