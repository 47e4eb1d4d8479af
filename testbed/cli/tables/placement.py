"""Places that were weighed under a budget, as a table and in a few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from testbed.cli.tables.fitting import FittedTable

if TYPE_CHECKING:
    from testbed.protect.placement.placing import Placement, WeighedPlace

_SHOWN = 12


def placement_table(placement: Placement) -> FittedTable:
    """The chosen places and those that gain most of the rest, by what they gain; what is more, in the JSON."""
    ordered = sorted(placement.places, key=lambda weighed: (not weighed.chosen, -weighed.gain.share))
    shown = ordered[: len(placement.chosen) + _SHOWN]
    more = f"; {len(ordered) - len(shown)} more places in --json" if len(shown) < len(ordered) else ""
    table = FittedTable(
        title=f"{len(placement.chosen)} of {len(ordered)} places under {placement.budget_percent:g} %{more}"
    )
    for name, justify in (
        *(("place", "left"), ("pass", "left"), ("gain %", "right"), ("rows", "right"), ("cost %", "right")),
        *(("runs", "right"), ("shared by", "right"), ("chosen", "left"), ("greedy", "left")),
    ):
        table.add_column(name, justify=justify)
    for weighed in shown:
        table.add_row(*_cells(weighed))
    return table


def _cells(weighed: WeighedPlace) -> tuple[str, ...]:
    gain, cost = weighed.gain, weighed.cost
    return (
        weighed.name,
        weighed.step,
        _with_interval(100 * gain.share, *(None if end is None else 100 * end for end in (gain.low, gain.high))),
        "-" if weighed.n is None else f"{weighed.n:,}",
        _with_interval(cost.percent, cost.low, cost.high),
        "-" if cost.runs is None else f"{cost.runs:,}",
        f"{cost.shared_by}",
        "yes" if weighed.chosen else "",
        "yes" if weighed.greedy else "",
    )


def _with_interval(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.3g}" if low is None or high is None else f"{value:.3g} [{low:.3g}, {high:.3g}]"


def placement_lines(placement: Placement) -> list[str]:
    """What the choice should bring, what greedy would, and what was measured of it."""
    gain = placement.gain
    what = "the SDC-1 that was measured" if placement.by == "measured" else f"the score {placement.by}"
    ends = (None if end is None else 100 * end for end in (gain.low, gain.high))
    lines = [
        f"covers {_with_interval(100 * gain.share, *ends)} % of {what}, for {placement.cost_percent:.3g} % of"
        f" {placement.cost}; greedy: {100 * placement.greedy_gain:.3g} % for {placement.greedy_cost_percent:.3g} %"
    ]
    if placement.latency is not None:
        over = " and is above the budget" if 100 * (placement.latency.value - 1) > placement.budget_percent else ""
        lines.append(f"latency of all that was chosen, over plain: {placement.latency}{over}, batch {placement.batch}")
    if placement.joint_percent:
        lines.append(f"together each place counts {placement.joint_percent:.3g} % more than alone: so it was measured")
    return lines
