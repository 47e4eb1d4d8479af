"""``testbed protect tradeoff``: what protected models cost against what they leave, from finished campaigns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.cli.common import emit, example, json_option, say
from testbed.cli.options.numbers import LARGEST_BATCH, Number, Threads, Whole
from testbed.cli.options.placement import Percent
from testbed.cli.options.types import CountsOption
from testbed.core.words.text import percent_interval

if TYPE_CHECKING:
    from rich.console import RenderableType

    from testbed.cli.tables.fitting import FittedTable
    from testbed.protect.tradeoff.record import CostedModel, CurveCost, ProtectionTradeoff, TradeoffPoint


@click.command(
    name="tradeoff",
    epilog=example(
        "testbed protect tradeoff runs/flips runs/flips-range runs/flips-checked --to runs/picture",
        "testbed protect tradeoff runs/a runs/w runs/a-range runs/w-range --to runs/picture --budget 10%",
        "testbed protect tradeoff runs/flips runs/flips-range --to runs/picture --batch 1 --cost latency --json > picture.json",
    ),
)
@click.argument(
    "campaigns", nargs=-1, required=True, type=click.Path(file_okay=False, path_type=Path), metavar="CAMPAIGN..."
)
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    metavar="DIR",
    help="For the page and all else.",
)
@click.option(
    "--batch",
    "batches",
    type=CountsOption(LARGEST_BATCH),
    default="1,8,32",
    show_default=True,
    help="Images per run. The first is what counts.",
)
@click.option(
    "--budget", type=Percent(), default="5%", show_default=True, metavar="P%", help="Latency that may be added."
)
@click.option(
    "--cost",
    type=click.Choice(["macs", "latency"]),
    default="macs",
    show_default=True,
    help="Of places on the hypothetical curve; latency takes seconds for each kind of place.",
)
@click.option("--threads", type=Threads(), default=1, show_default=True, help="Of the timed engines.")
@click.option("--seconds", type=Number(1e-6, 1e7), default=3.0, show_default=True, help="Per engine and batch, or ...")
@click.option(
    "--runs",
    type=Whole(2, 1_000_000),
    default=100,
    show_default=True,
    help="... so many runs, whichever is less; 6 at least.",
)
@json_option
def weigh_protection(
    campaigns: tuple[Path, ...],
    to: Path,
    batches: tuple[int, ...],
    budget: float,
    cost: CurveCost,
    threads: int,
    seconds: float,
    runs: int,
    as_json: bool,
) -> None:
    """Put protected models beside the plain one: latency that each adds, and SDC-1 and outputs outside the tolerance that it
    leaves of the same faults.

    CAMPAIGN...: finished campaigns of the plain model and of what was protected of it, in any order: each says itself
    which model it ran. Faults of several kinds (activations, weights) may be in one campaign or in several; each protected
    campaign is compared with the plain one that has the same kind. Latency is measured in the models' own folders, in
    turns, in the campaigns' engine and precision.

    Writes tradeoff.html, tradeoff.json, tables as CSV and figures as SVG and PNG into --to: the Pareto front, one
    recommendation that says why, and what was expected of each model beside what it really removed.
    """
    from testbed.bench.timing import LEAST_ROUNDS, Budget
    from testbed.cli.progress import log_to_stderr
    from testbed.protect.tradeoff.weigh import WeighRequest
    from testbed.protect.tradeoff.weigh import weigh_protection as weighed_of
    from testbed.publish.tradeoff_files import PAGE, write_weighed

    log_to_stderr()
    timing = Budget(seconds=seconds, runs=max(runs, LEAST_ROUNDS))
    weighed = weighed_of(campaigns, WeighRequest(tuple(batches), threads, timing, budget, cost), say)
    for path in write_weighed(weighed, to):
        say(f"written: {path}")
    emit(weighed.to_json(), as_json, lambda: _text(weighed, to / PAGE))


def _text(weighed: ProtectionTradeoff, page: Path) -> RenderableType:
    from testbed.cli.tables.prose import Prose, stacked

    parts: list[RenderableType] = [_costs(weighed)]
    for where, op in dict.fromkeys((point.where, point.op) for point in weighed.points):
        points = [point for point in weighed.points if (point.where, point.op) == (where, op)]
        parts += ["", _left(f"{op} in {'activations' if where == 'activation' else 'weights'}", points)]
    parts += ["", *(Prose(line, indent=3) for line in _accounts(weighed))]
    parts += [Prose(note, style="yellow") for note in weighed.notes]
    return stacked([*parts, "", Prose(weighed.why), f"page: {page}", "", Prose(weighed.method, style="dim")])


def _costs(weighed: ProtectionTradeoff) -> FittedTable:
    from testbed.cli.tables.fitting import FittedTable
    from testbed.report.protection_tradeoff import added_percent

    batches = [row.batch for row in weighed.plain.latency]
    table = FittedTable(title=f"deployed files, {weighed.engine} {weighed.precision}: added to the plain model's, %")
    for name in ("model", "passes"):
        table.add_column(name)
    for name in (*(f"latency, batch {batch}" for batch in batches), "MACs", "operations", "false alarms, at most %"):
        table.add_column(name, justify="right")
    for model in (weighed.plain, *weighed.models):
        latencies = [f"{row.p50_ms:.3g} ms" if model is weighed.plain else added_percent(row) for row in model.latency]
        macs = f"{model.macs_added_percent:.2f}", f"{model.operations_added_percent:.2f}"
        if model is weighed.plain:
            macs = f"{model.macs / 1e6:.4g} M", ""
        table.add_row(model.name, ", ".join(model.passes) or "none", *latencies, *macs, _false_alarms(model))
    return table


def _false_alarms(model: CostedModel) -> str:
    """The least bound that holds of the model's alarms without a fault: that of the most images."""
    if not model.false_alarms:
        return ""
    most = max(model.false_alarms, key=lambda alarms: alarms.images)
    return f"{100 * most.bound_95:.2f} ({most.alarms:,} of {most.images:,})"


def _left(title: str, points: list[TradeoffPoint]) -> FittedTable:
    from testbed.cli.tables.fitting import FittedTable
    from testbed.core.outcome import MEASURE_NAMES
    from testbed.report.protection_tradeoff import removed_percent

    table = FittedTable(title=f"{title}: what is left, with intervals")
    for name in ("model", "event"):
        table.add_column(name)
    for name in ("faults", "left, %", "removed, %", "detected, at least (95 | 99 %)"):
        table.add_column(name, justify="right")
    for name in ("standing", "beaten by"):
        table.add_column(name)
    for point in points:
        bounds = (
            "" if point.detected is None else f"{100 * point.detected.low_95:.1f} | {100 * point.detected.low_99:.1f}"
        )
        table.add_row(
            point.model,
            MEASURE_NAMES[point.event],
            f"{point.faults:,}",
            percent_interval(point.left.rate, point.left.low, point.left.high),
            removed_percent(point),
            bounds,
            point.standing,
            ", ".join(point.dominated_by),
        )
    return table


def _accounts(weighed: ProtectionTradeoff) -> Iterator[str]:
    for account in weighed.removals:
        yield f"{account.model}, {account.op} in {'activations' if account.where == 'activation' else 'weights'}: {account.why}"
