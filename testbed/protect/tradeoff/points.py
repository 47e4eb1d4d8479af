"""What each model leaves of an event, and where it stands among the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from testbed.compare.side import compared_rate
from testbed.protect.paired.model_pairs import ModelPairs
from testbed.protect.paired.record import EventChange, EventName
from testbed.protect.tradeoff.campaigns import FaultModelKey
from testbed.protect.tradeoff.costs import is_shown_cheaper
from testbed.protect.tradeoff.front import OrderedPoints
from testbed.protect.tradeoff.record import CostedModel, TradeoffPoint
from testbed.protect.tradeoff.rows import WeighedRows


def points_of(
    rows: WeighedRows, key: FaultModelKey, campaign: Path, plain: CostedModel, models: Sequence[CostedModel]
) -> Iterator[TradeoffPoint]:
    """Place the models under one fault model, event by event, the plain model first. campaign: the plain one; models: the
    protected ones."""
    measured = rows.protected[key]
    compared = [plain, *(models[number] for number in measured)]
    for event in rows.events(key):
        points = [_plain_point(rows.plain[key], event, plain.name, campaign)]
        points += [_point(pairs, event, models[number].name, side.path) for number, (side, pairs) in measured.items()]
        table, names = rows.table(key, event, models), [None, *(models[number].name for number in measured)]
        order = OrderedPoints(
            costs=np.array([model.latency[0].ratio for model in compared]),
            left=np.array([point.left.rate for point in points]),
            cheaper=np.array([[is_shown_cheaper(a, b, rows.confidence) for b in compared] for a in compared]),
            fewer=np.array([[table.leaves_fewer(a, b) for b in names] for a in names]),
        )
        beats = order.beats()
        for number, (point, standing) in enumerate(zip(points, order.standings(), strict=True)):
            beaten_by = [points[other].model for other in np.flatnonzero(beats[:, number])]
            yield point.model_copy(update={"standing": standing, "dominated_by": beaten_by})


def change_of(pairs: ModelPairs, event: EventName) -> EventChange:
    """What protection changed of an event, of all faults of a fault model that has the event."""
    (group,) = pairs.groups(("all",))
    change = group.sdc1 if event == "sdc1" else group.outside
    assert change is not None
    return change


def _plain_point(rows: ModelPairs, event: EventName, name: str, campaign: Path) -> TradeoffPoint:
    rate = compared_rate(rows.design.estimate(rows.judged.before(event), rows.confidence))
    return TradeoffPoint(
        model=name,
        **rows.of_model,
        event=event,
        campaign=str(campaign),
        faults=int(rows.rows["fault_id"].nunique()),
        rows=len(rows.rows),
        before=rate,
        left=rate,
        removed=None,
        detected=None,
        standing="front",
        dominated_by=[],
    )


def _point(pairs: ModelPairs, event: EventName, name: str, campaign: Path) -> TradeoffPoint:
    change = change_of(pairs, event)
    affected = [entry for entry in pairs.affected(("all",)) if entry.event == event]
    return TradeoffPoint(
        model=name,
        **pairs.of_model,
        event=event,
        campaign=str(campaign),
        faults=int(pairs.rows["fault_id"].nunique()),
        rows=len(pairs.rows),
        before=change.before,
        left=change.after,
        removed=change.removed,
        detected=affected[0].detected if affected else None,
        standing="front",
        dominated_by=[],
    )
