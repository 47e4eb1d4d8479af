"""The front against every pair of points."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from testbed.protect.tradeoff.front import OrderedPoints, front_order


@st.composite
def points(draw: st.DrawFn) -> OrderedPoints:
    """Estimates with intervals: what is shown follows from intervals that do not touch."""
    count = draw(st.integers(1, 8))
    values = st.lists(st.integers(0, 9), min_size=count, max_size=count)
    costs, left = (np.array(draw(values), float) for _ in range(2))
    widths = [np.array(draw(values), float) / 3 for _ in range(2)]
    cheaper, fewer = (
        (estimates + width)[:, None] < estimates - width for estimates, width in zip((costs, left), widths, strict=True)
    )
    return OrderedPoints(costs, left, cheaper, fewer)


@given(points())
def test_the_front_is_who_nobody_beats(order: OrderedPoints) -> None:
    standings = order.standings()
    count = len(standings)
    for n in range(count):
        better = [
            m
            for m in range(count)
            if order.costs[m] <= order.costs[n]
            and order.left[m] <= order.left[n]
            and (order.costs[m], order.left[m]) != (order.costs[n], order.left[n])
        ]
        surely = [m for m in better if order.cheaper[m, n] and order.fewer[m, n]]
        assert standings[n] == ("dominated" if surely else "undecided" if better else "front")
        assert np.flatnonzero(order.beats()[:, n]).tolist() == better


@given(points())
def test_along_the_front_less_is_left_for_more(order: OrderedPoints) -> None:
    front = front_order(order.costs.tolist(), order.standings())
    assert front
    steps = [(order.costs[n], order.left[n]) for n in front]
    for (cost, left), (next_cost, next_left) in pairwise(steps):
        assert (cost, left) == (next_cost, next_left) or (cost < next_cost and left > next_left)


def test_what_is_not_shown_is_undecided() -> None:
    """The second is worse in both by the estimates; only with both shown is it dominated."""
    costs, left, no, yes = (
        np.array([1.0, 2.0]),
        np.array([0.1, 0.2]),
        np.zeros((2, 2), bool),
        np.eye(2, k=1, dtype=bool),
    )
    assert OrderedPoints(costs, left, no, no).standings() == ["front", "undecided"]
    assert OrderedPoints(costs, left, yes, no).standings() == ["front", "undecided"]
    assert OrderedPoints(costs, left, no, yes).standings() == ["front", "undecided"]
    assert OrderedPoints(costs, left, yes, yes).standings() == ["front", "dominated"]
