"""Hypothetical protection: shares against sums of weights, greedy beside every choice."""

from __future__ import annotations

from itertools import chain, combinations

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.protect.paired.model_pairs import ModelPairs
from testbed.protect.tradeoff.curve import CostedPlace, hypothetical_curve
from testbed.protect.tradeoff.record import HypotheticalCurve

SITES = ("q", "k", "v", "fc1", "fc2")


@st.composite
def campaigns(draw: st.DrawFn) -> pd.DataFrame:
    """A few rows of each site, with at least one SDC-1; each site's faults stand for so many."""
    rows = []
    for stratum, site in enumerate(SITES):
        population = draw(st.integers(10, 500))
        for _ in range(draw(st.integers(1, 4))):
            outcome = draw(st.sampled_from(["sdc1", "sdc_tolerable", "masked"]))
            rows.append({"site": site, "stratum": stratum, "population": population, "outcome": outcome})
    rows.append(rows[-1] | {"outcome": "sdc1"})
    fixed = {"target": "model", "where": "activation", "op": "flip", "bit_class": "exponent", "top1_golden": 1}
    return pd.DataFrame([row | fixed | {"fault_id": number} for number, row in enumerate(rows)])


@st.composite
def places(draw: st.DrawFn) -> list[CostedPlace]:
    count = draw(st.integers(1, 6))
    covers = st.frozensets(st.sampled_from(SITES), min_size=1, max_size=3)
    return [CostedPlace(f"range {n}", draw(covers), draw(st.integers(1, 9)) / 10) for n in range(count)]


def share_of(rows: pd.DataFrame, covered: set[str], outcomes: list[str]) -> float:
    weight = rows["population"] / rows.groupby("stratum")["fault_id"].transform("size")
    event = rows.outcome.isin(outcomes)
    return float(weight[event & rows.site.isin(covered)].sum() / weight[event].sum())


@settings(max_examples=40, deadline=None)
@given(campaigns(), places(), st.sampled_from(["sdc1", "outside"]))
def test_a_step_gains_the_weights_of_the_sites_it_covers(
    rows: pd.DataFrame, taken: list[CostedPlace], event: str
) -> None:
    outcomes = ["sdc1"] if event == "sdc1" else ["sdc1", "sdc_tolerable"]
    curve = curve_of(rows, taken, event)
    by_name = {spot.name: spot for spot in taken}
    covered: set[str] = set()
    spent = 0.0
    for step in curve.greedy[1:]:
        assert step.last is not None
        rates = {
            spot.name: (share_of(rows, covered | spot.covers, outcomes) - share_of(rows, covered, outcomes))
            / spot.percent
            for spot in taken
        }
        assert rates[step.last] == pytest.approx(max(rates.values()))
        covered |= by_name[step.last].covers
        spent += by_name[step.last].percent
        assert (step.share, step.cost_percent) == pytest.approx((share_of(rows, covered, outcomes), spent))
        assert step.low <= step.share <= step.high
    everything = set(chain.from_iterable(spot.covers for spot in taken))
    assert curve.greedy[-1].share == pytest.approx(share_of(rows, everything, outcomes))


@settings(max_examples=40, deadline=None)
@given(campaigns(), places())
def test_the_exact_choice_is_the_best_of_all(rows: pd.DataFrame, taken: list[CostedPlace]) -> None:
    curve = curve_of(rows, taken, "sdc1")
    subsets = list(chain.from_iterable(combinations(taken, size) for size in range(len(taken) + 1)))
    budgets = sorted({step.cost_percent for step in curve.greedy[1:]})
    assert len(curve.exact) == len(budgets)
    for choice, budget in zip(curve.exact, budgets, strict=True):
        affordable = [chosen for chosen in subsets if sum(spot.percent for spot in chosen) <= budget + 1e-9]
        best = max(
            share_of(rows, set(chain.from_iterable(spot.covers for spot in chosen)), ["sdc1"]) for chosen in affordable
        )
        assert choice.share == pytest.approx(best)
        assert choice.cost_percent <= budget + 1e-6


def curve_of(rows: pd.DataFrame, taken: list[CostedPlace], event: str) -> HypotheticalCurve:
    curve = hypothetical_curve(ModelPairs(rows, 0.95), event, taken, ["range"], "macs")  # type: ignore[arg-type]
    assert curve is not None
    assert curve.greedy[0].share == 0
    assert curve.greedy[0].left == pytest.approx(curve.before.rate)
    return curve


def test_without_any_event_there_is_no_curve() -> None:
    fixed = {"target": "model", "where": "activation", "op": "flip", "bit_class": "exponent", "top1_golden": 1}
    rows = pd.DataFrame(
        {"site": ["q"], "stratum": [0], "population": [9], "outcome": ["masked"], "fault_id": [0], **fixed}
    )
    spot = CostedPlace("range q", frozenset({"q"}), 1.0)
    assert hypothetical_curve(ModelPairs(rows, 0.95), "sdc1", [spot], ["range"], "macs") is None
