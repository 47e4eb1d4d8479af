"""The fault lens over a campaign on a terminal: the sample, what becomes of faults, and whether the rank predicts it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from testbed.cli.tables.fitting import FittedTable
from testbed.cli.tables.prose import stacked

if TYPE_CHECKING:
    from rich.console import RenderableType

    from testbed.sensitivity.campaign_lens.record import (
        LensEstimate,
        LensGroup,
        LensModel,
        LensPlan,
        LensRecord,
        MedianDepth,
        Prediction,
        SampledGroup,
    )

_BY = {"all": "", "kind": "", "bit_class": "bits: ", "block": "block ", "outcome": "outcome: "}
_CHANGES = {"absorbed": "absorbed", "takes_over": "take over", "repaired": "repaired"}


def lens_plan_table(plan: LensPlan) -> RenderableType:
    """What would be looked at."""
    table = _table(f"lens over {plan.name}: nothing is run", "faults", "rows", "not seen", "outcome", "faults", "drawn")
    for model in plan.models:
        pattern = "" if model.pattern == "single" else f", {model.pattern}"
        for number, group in enumerate(model.sample):
            head = (f"{model.where} {model.op}{pattern}", f"{model.rows:,}", f"{model.behind:,}")
            table.add_row(
                *(head if number == 0 else ("", "", "")), group.outcome, f"{group.faults:,}", f"{group.drawn:,}"
            )
    drawn = sum(group.drawn for model in plan.models for group in model.sample)
    return stacked([table, f"{drawn:,} faults on {plan.images:,} images would be looked at, seed {plan.seed}"])


def lens_tables(record: LensRecord, folder: Path) -> RenderableType:
    """Everything but the single faults."""
    parts: list[RenderableType] = []
    for model in record.models:
        parts += _model_parts(model)
    level = f"{100 * record.confidence:g} % intervals; absorbed: below {100 * record.absorbed_below:g} % of what the head reads"
    return stacked([*parts, level, f"written: {folder / 'lens.json'}, lens_faults.csv, lens_groups.csv, lens.svg"])


def _model_parts(model: LensModel) -> Iterator[RenderableType]:
    yield f"{model.name}: {model.drawn:,} faults looked at, {_sampled(model.sample)}"
    if model.behind:
        yield f"{model.behind:,} of {model.rows:,} rows are behind the last block, where the lens sees nothing"
    if model.disagreements:
        yield (
            f"in {model.disagreements:,} of {model.compared:,} the eager model ends with another class than the engine did"
        )
    yield _group_table(model)
    yield _change_table(model)
    yield _prediction_table(model)
    yield from verdicts(model)
    yield _band_table(model)


def _sampled(groups: list[SampledGroup]) -> str:
    return "drawn by outcome: " + ", ".join(f"{g.drawn:,} of {g.faults:,} {g.outcome}" for g in groups if g.faults)


def _group_table(model: LensModel) -> FittedTable:
    columns = ("faults", "n", "absorbed", "in own block", "median depth", "mean depth", "taken over", "repaired")
    table = _table(f"{model.name}: what becomes of faults inside, % and blocks", *columns)
    for group in model.groups:
        table.add_row(
            _named(group),
            f"{group.n:,}",
            percent(group.absorbed),
            percent(group.within[0].share),
            median(group.median_depth),
            "-" if group.mean_depth is None else _number(group.mean_depth),
            percent(group.taken_over),
            percent(group.repaired),
        )
    return table


def _change_table(model: LensModel) -> FittedTable:
    table = _table(f"{model.name}: at which state", "after", *(f"{name}, %" for name in _CHANGES.values()))
    by_key: dict[tuple[str, str], LensEstimate] = {(c.change, c.after): c.share for c in model.changes}
    for after in dict.fromkeys(change.after for change in model.changes):
        shares = [by_key.get((change, after)) for change in _CHANGES]
        table.add_row(after, *("0" if share is None else percent(share) for share in shares))
    numbers: dict[str, int] = {change.change: change.share.n for change in model.changes}
    table.add_row("n", *(f"{numbers.get(change, 0):,}" for change in _CHANGES))
    return table


def _prediction_table(model: LensModel) -> FittedTable:
    columns = ("bits", "event", "faults", "events", "AUC", "AUC, same block and bits")
    table = _table(
        f"{model.name}: does the rank of the true class at the injected block predict the outcome?", *columns
    )
    for entry in model.predictions:
        cells = ("few events" if area is None else _number(area) for area in (entry.auc, entry.auc_alike))
        table.add_row(entry.bit_class or "all", entry.event, f"{entry.n:,}", f"{entry.events:,}", *cells)
    return table


def verdicts(model: LensModel) -> list[str]:
    """What the areas of all faults say, a line for each event."""
    return [_says(entry) for entry in model.predictions if entry.bit_class is None]


def _says(entry: Prediction) -> str:
    event = {"sdc1": "SDC-1", "outside": "outside the tolerance"}[entry.event]
    alike = entry.auc_alike
    if alike is None:
        return f"{event}: too few events to say"
    area = f"area {alike.value:.3f} [{alike.low:.3f}, {alike.high:.3f}] within a block and class of bits"
    if alike.low > 0.5:
        return f"{event}: the less the class is identified, the more harm; {area}"
    if alike.high < 0.5:
        return f"{event}: the less the class is identified, the less harm; {area}"
    return f"{event}: undecided, the rank may say nothing beyond block and bits; {area}"


def _band_table(model: LensModel) -> FittedTable:
    table = _table(f"{model.name}: rates by that rank, all stored rows, %", "bits", "rank", "rows", "SDC-1", "outside")
    for band in model.bands:
        rank = str(band.low) if band.low == band.high else f"{band.low} to {band.high}"
        table.add_row(band.bit_class or "all", rank, f"{band.sdc1.n:,}", percent(band.sdc1), percent(band.outside))
    return table


def _named(group: LensGroup) -> str:
    if group.by == "all":
        return "all"
    return "outside the blocks" if group.value is None else f"{_BY[group.by]}{group.value}"


def _table(title: str, *columns: str) -> FittedTable:
    table = FittedTable(title=title)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 or name in ("outcome", "event") else "right")
    return table


def percent(estimate: LensEstimate) -> str:
    """A share in percent with its interval."""
    value, low, high = (100 * end for end in (estimate.value, estimate.low, estimate.high))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _number(estimate: LensEstimate) -> str:
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def median(depth: MedianDepth) -> str:
    """The median depth with its interval; "never" where fewer than half are absorbed."""
    value, low, high = ("never" if end is None else str(end) for end in (depth.value, depth.low, depth.high))
    return f"{value} [{low}, {high}]"
