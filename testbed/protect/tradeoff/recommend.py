"""Which protected model to deploy under a budget of latency, and the sentence that says why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from testbed.core.words.text import percent_interval
from testbed.protect.tradeoff.campaigns import FaultModelKey, fault_model_name
from testbed.protect.tradeoff.events import EventTable
from testbed.protect.tradeoff.record import CostedModel, TradeoffPoint


@dataclass(frozen=True, eq=False)
class Candidates:
    """Protected models to choose from. points: model -> fault model -> what it leaves; tables: fault model -> which rows had
    the event, model by model."""

    models: Sequence[CostedModel]
    points: Mapping[str, Mapping[FaultModelKey, TradeoffPoint]]
    tables: Mapping[FaultModelKey, EventTable]
    event_name: str

    @property
    def compared(self) -> tuple[FaultModelKey, ...]:
        """The fault models that the most models were measured under, all models of them being the same ones."""
        common = tuple(key for key in self.tables if all(key in self.points[m.name] for m in self.models))
        most = max(self.tables, key=lambda key: sum(key in self.points[m.name] for m in self.models))
        return common or (most,)

    @property
    def comparable(self) -> list[CostedModel]:
        """The models that were measured under all of these."""
        return [model for model in self.models if all(key in self.points[model.name] for key in self.compared)]


def recommend(candidates: Candidates, budget_percent: float, confidence: float) -> tuple[str | None, str]:
    """The cheapest of those that keep to the budget and are not shown to leave more than the best of them; and why.

    A model keeps to the budget where the upper end of its latency does. The best leaves least in its worst fault model, by the
    upper end of what is left. None where nothing keeps to the budget, or nothing that does is shown to remove anything.
    """
    models, keys = candidates.comparable, candidates.compared
    batch, level = models[0].latency[0].batch, f"{100 * confidence:g} %"
    within = (
        f"within {budget_percent:g} % of the plain model's latency at batch {batch} with its whole {level} interval"
    )
    fitting = [model for model in models if _highest(model) <= budget_percent]
    if not fitting:
        cheapest = min(models, key=_percent)
        return None, (
            f"no protected model stays {within}: the cheapest, {cheapest.name}, adds {_added(cheapest)};"
            f" it leaves {_left(candidates, cheapest)}."
        )
    removing = [model for model in fitting if any(_removes(candidates.points[model.name][key]) for key in keys)]
    if not removing:
        return None, (
            f"none of the {len(fitting)} (of {len(models)}) protected models that stay {within} is shown to remove"
            f" {candidates.event_name}: {fitting[0].name} leaves {_left(candidates, fitting[0])}."
        )
    best = min(removing, key=lambda model: (_worst(candidates, model), _percent(model)))
    as_good = [
        model
        for model in removing
        if not any(candidates.tables[key].leaves_fewer(best.name, model.name) for key in keys)
    ]
    chosen = min(as_good, key=_percent)
    return chosen.name, (
        f"{chosen.name}: {_role(chosen, best, fitting, models, candidates.event_name, within)}; it adds {_added(chosen)}, and"
        f" leaves {_left(candidates, chosen)}."
    )


def _role(
    chosen: CostedModel,
    best: CostedModel,
    fitting: Sequence[CostedModel],
    models: Sequence[CostedModel],
    event_name: str,
    within: str,
) -> str:
    if len(fitting) == 1:
        return f"the only one of {len(models)} protected models that stays {within}"
    among = f"of the {len(fitting)} (of {len(models)}) protected models that stay {within}"
    if chosen is not best:
        return f"{among}, the cheapest that is not shown to leave more {event_name} than the best, {best.name} ({_added(best)})"
    if chosen is min(fitting, key=_percent):
        return f"{among}, the cheapest, and the one that leaves least {event_name} by its upper bound"
    return (
        f"{among}, the one that leaves least {event_name} by its upper bound: the cheaper ones are shown to leave more, or are"
        " not shown to remove any"
    )


def _percent(model: CostedModel) -> float:
    return 100 * (model.latency[0].ratio - 1)


def _highest(model: CostedModel) -> float:
    """The upper end of what it adds, in per cent; without bound where too few rounds were run."""
    high = model.latency[0].high
    return float("inf") if high is None else 100 * (high - 1)


def _added(model: CostedModel) -> str:
    """ "+2.9 % [2.1, 3.6]"."""
    row = model.latency[0]
    if row.low is None or row.high is None:
        return f"{_percent(model):+.1f} % (too few rounds for an interval)"
    return f"{_percent(model):+.1f} % [{100 * (row.low - 1):.1f}, {100 * (row.high - 1):.1f}]"


def _removes(point: TradeoffPoint) -> bool:
    return point.removed is not None and point.removed.low is not None and point.removed.low > 0


def _worst(candidates: Candidates, model: CostedModel) -> float:
    return max(candidates.points[model.name][key].left.high for key in candidates.compared)


def _left(candidates: Candidates, model: CostedModel) -> str:
    """ "SDC-1 of 0.10 % [0.05, 0.26] of faults (flip in activations; 1.19 % without protection)"."""
    parts = []
    for key in candidates.tables:
        point = candidates.points[model.name].get(key)
        if point is not None:
            left = percent_interval(point.left.rate, point.left.low, point.left.high).replace(" [", " % [")
            parts.append(f"{left} of {fault_model_name(key)} ({100 * point.before.rate:.2f} % without protection)")
    return f"{candidates.event_name} of " + " and ".join(parts)
