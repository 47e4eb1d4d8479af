"""The recommendation: who keeps to the budget, who leaves least, who is cheap enough; in one sentence with its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from testbed.compare.record import ComparedRate
from testbed.protect.paired.record import ShareRemoved
from testbed.protect.tradeoff.events import EventTable
from testbed.protect.tradeoff.recommend import Candidates, recommend
from testbed.protect.tradeoff.record import CostedModel, MeasuredLatency, TradeoffPoint

KEY = ("model", "activation", "flip")
FAULTS, BEFORE = 1000, 200


def model(name: str, added: tuple[float, float, float]) -> CostedModel:
    """A model that adds so many per cent: estimate, and both ends."""
    ratio, low, high = (1 + percent / 100 for percent in added)
    latency = MeasuredLatency(batch=1, runs=9, p50_ms=1.0, ratio=ratio, low=low, high=high, latency_ms=[1.0])
    return CostedModel(
        name=name,
        folder=name,
        deployment_id=name,
        passes=["range"],
        campaigns=[],
        engine_hash="e",
        twin_hashes=[],
        latency=[latency],
        macs=1,
        macs_added_percent=0.0,
        operations_added_percent=0.0,
        false_alarms=[],
    )


def candidates(models: Sequence[CostedModel], left: Mapping[str, int]) -> Candidates:
    """Models that leave the first so many of 200 events in 1,000 faults of one stratum."""
    rows = pd.DataFrame(
        {"fault_id": range(FAULTS), "image_id": "i", "site": "q", "op": "flip", "bit_class": "exponent"}
    )
    rows = rows.assign(stratum=0, population=10 * FAULTS)
    order = np.arange(FAULTS)
    table = EventTable(
        rows, 0.95, order < BEFORE, {name: (order < count).astype(float) for name, count in left.items()}
    )
    points = {}
    for each in models:
        rate, removed = left[each.name] / FAULTS, table.removed(None, each.name)
        assert removed is not None
        points[each.name] = {
            KEY: TradeoffPoint(
                model=each.name,
                target="model",
                where="activation",
                op="flip",
                event="sdc1",
                campaign="c",
                faults=FAULTS,
                rows=FAULTS,
                before=ComparedRate(rate=BEFORE / FAULTS, low=0.17, high=0.23),
                left=ComparedRate(rate=rate, low=max(0.0, rate - 0.01), high=rate + 0.01),
                removed=ShareRemoved(share=removed.share, low=removed.low, high=removed.high),
                detected=None,
                standing="front",
                dominated_by=[],
            )
        }
    return Candidates(models, points, {KEY: table}, "SDC-1")


CHEAP, DEAR, OVER = model("cheap", (1.0, 0.5, 1.5)), model("dear", (3.0, 2.5, 3.5)), model("over", (4.0, 3.0, 6.0))


def test_the_cheapest_that_is_not_shown_to_be_worse() -> None:
    name, why = recommend(candidates([DEAR, CHEAP], {"cheap": 12, "dear": 10}), 5, 0.95)
    assert name == "cheap"
    assert "of the 2 (of 2) protected models that stay within 5 %" in why
    assert "not shown to leave more SDC-1 than the best, dear (+3.0 % [2.5, 3.5]); it adds +1.0 % [0.5, 1.5]" in why
    assert "leaves SDC-1 of 1.20 % [0.20, 2.20] of flip in activations (20.00 % without protection)." in why


def test_the_dearer_where_it_is_shown_to_leave_less() -> None:
    name, why = recommend(candidates([CHEAP, DEAR], {"cheap": 90, "dear": 10}), 5, 0.95)
    assert name == "dear"
    assert "the cheaper ones are shown to leave more" in why


def test_a_model_whose_interval_reaches_over_the_budget_does_not_count() -> None:
    name, why = recommend(candidates([CHEAP, OVER], {"cheap": 90, "over": 0}), 5, 0.95)
    assert name == "cheap"
    assert "the only one of 2 protected models that stays within 5 %" in why
    assert recommend(candidates([CHEAP, OVER], {"cheap": 90, "over": 0}), 6.5, 0.95)[0] == "over"


def test_nothing_that_keeps_to_the_budget() -> None:
    name, why = recommend(candidates([DEAR, OVER], {"dear": 10, "over": 0}), 2, 0.95)
    assert name is None
    assert why.startswith("no protected model stays within 2 % of the plain model's latency at batch 1")
    assert "the cheapest, dear, adds +3.0 % [2.5, 3.5]; it leaves SDC-1 of 1.00 %" in why


def test_nothing_that_removes_anything() -> None:
    name, why = recommend(candidates([CHEAP, DEAR], {"cheap": 199, "dear": 200}), 5, 0.95)
    assert name is None
    assert why.startswith("none of the 2 (of 2) protected models that stay within 5 %")


def test_models_are_compared_under_the_faults_that_all_have() -> None:
    """The second has no faults in weights: what the first leaves of these does not count, and is told."""
    both = candidates([CHEAP, DEAR], {"cheap": 10, "dear": 10})
    weights = ("model", "weight", "flip")
    worse = both.points["cheap"][KEY].model_copy(
        update={"where": "weight", "left": ComparedRate(rate=0.9, low=0.8, high=1.0)}
    )
    points = {"cheap": {**both.points["cheap"], weights: worse}, "dear": both.points["dear"]}
    more = Candidates(both.models, points, {**both.tables, weights: both.tables[KEY]}, "SDC-1")
    assert more.compared == (KEY,)
    name, why = recommend(more, 5, 0.95)
    assert name == "cheap"
    assert "and 90.00 % [80.00, 100.00] of flip in weights" in why
