"""``testbed campaign plan``: the strata of a campaign, their populations, and the sample sizes that a margin asks for."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.cli.common import emit, example, json_option
from testbed.cli.options.numbers import Confidence, Number, Whole
from testbed.core.json_types import json_ready

if TYPE_CHECKING:
    from rich.console import RenderableType

    from testbed.campaign.preview.plan import Preview
    from testbed.campaign.preview.records import AdaptiveBounds, PreviewCost, PreviewHead, PreviewTotals


@click.command(
    epilog=example(
        "testbed campaign plan digits.toml --by block",
        "testbed campaign plan digits.toml --by 'site x bit_class' --margin 0.02",
        "testbed campaign plan digits.toml --by site --margin 0.1 --relative --rate 0.05",
        "testbed campaign plan digits.toml --measure --json > plan.json",
    )
)
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--margin", type=Number(), help="Half the width of every interval. [default: as in [stop], or 0.01]")
@click.option("--relative", is_flag=True, help="The margin is a share of --rate.")
@click.option("--rate", type=Number(), default=0.5, show_default=True, help="Expected rate; 0.5 is the worst case.")
@click.option("--confidence", type=Confidence(), help="[default: the campaign's]")
@click.option(
    "--by",
    metavar="DIMENSIONS",
    help="Put strata together: site, kind, block, bit, bit_class, tier, or several: 'site x bit_class'; all."
    " [default: the strata that are sampled]",
)
@click.option("--seconds-per-row", type=Number(1e-9), help="What a row costs, for the estimate.")
@click.option("--measure", is_flag=True, help="Time the engine here and now instead, as --dry-run does.")
@click.option("--rows", default=24, show_default=True, type=Whole(0), help="Parts to print; --json has all.")
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a value of SPEC: engine.backend=openvino."
)
@json_option
def plan(
    spec: Path,
    margin: float | None,
    relative: bool,
    rate: float,
    confidence: float | None,
    by: str | None,
    seconds_per_row: float | None,
    measure: bool,
    rows: int,
    changes: tuple[str, ...],
    as_json: bool,
) -> None:
    """What the campaign that SPEC describes samples from: nothing is run.

    Per stratum, or per part asked for with --by: the population N of faults (element x bit x image), the faults that
    Leveugle's formula asks for to know its rate to within the margin, and how many the spec draws. A campaign with a
    [stop] table draws in rounds: its first one is told, and between which bounds it will end.
    """
    from testbed.campaign.preview.plan import Preview, asked_dimensions, wanted_of
    from testbed.campaign.spec.campaign import load_spec
    from testbed.protect.campaigns.preview import preview_protected

    loaded = load_spec(spec, changes)
    wanted = wanted_of(loaded, margin, confidence, rate, relative)
    dimensions = asked_dimensions(by)
    preview = Preview(loaded, wanted, dimensions, seconds_per_row, measure)
    protected = preview_protected(loaded, wanted, dimensions, seconds_per_row, measure)
    later = None if protected is None else protected.all_totals()
    if as_json:
        for chunk in _json(preview, later):
            click.echo(chunk)
    else:
        emit(None, False, lambda: _tables(preview, later, rows))


def _json(preview: Preview, protected: PreviewTotals | None) -> Iterator[str]:
    """One JSON object, a part per line: there may be very many."""
    head = json.dumps(json_ready(preview.head().to_json()), allow_nan=False)
    yield head.removesuffix("}") + ', "parts": ['
    comma = ""
    for part in preview.parts():
        yield comma + json.dumps(json_ready(part.to_json()), allow_nan=False)
        comma = ","
    more = "" if protected is None else f', "protected": {json.dumps(json_ready(protected.to_json()), allow_nan=False)}'
    yield f'], "totals": {json.dumps(json_ready(preview.totals().to_json()), allow_nan=False)}{more}}}'


def _tables(preview: Preview, protected: PreviewTotals | None, rows: int) -> RenderableType:
    from testbed.cli.tables.fitting import FittedTable
    from testbed.cli.tables.prose import stacked

    head, parts = preview.head(), preview.parts()
    shown = list(itertools.islice(parts, rows))
    margin = f"{head.margin:g} of {head.rate:.3g}" if head.relative else f"{head.margin:g}"
    table = FittedTable(
        title=f"plan of {head.name}: nothing was run; n for +-{margin} at {100 * head.confidence:g} %",
    )
    numbers = ("strata", "N", "Leveugle's n", "drawn")
    for name in ("target", "place", "operation", *head.by, *numbers):
        table.add_column(name, justify="right" if name in numbers else "left")
    for part in shown:
        values = ("" if value is None else str(value) for value in part.values)
        counts = (f"{count:,}" for count in (part.strata, part.population, part.leveugle, part.drawn))
        table.add_row(part.model.target, part.model.where, part.model.label, *values, *counts)
    more = sum(1 for _ in parts)
    others = [f"... and {more:,} more; --by block tells fewer, --json all"] if more else []
    return stacked([table, *others, *_lines(head, preview.totals()), *_protected_line(protected)])


def _lines(head: PreviewHead, totals: PreviewTotals) -> Iterable[str]:
    yield (f"{totals.parts:,} parts of {totals.strata:,} strata, {totals.population:,} faults on {head.images} images")
    for each in head.images_each:
        assumed = "; assumed: a pilot decides" if each.auto else ""
        yield f"each fault in {each.where}s of {each.target} is run on {each.images} of the images{assumed}"
    adaptive = head.adaptive
    own = "the spec draws" if adaptive is None else "the first round draws"
    yield f"{own} {_cost(totals.drawn)}; Leveugle's n of every part: {_cost(totals.leveugle)}"
    if adaptive is not None:
        fewer = adaptive.forecast_uniform.faults / max(adaptive.forecast.faults, 1)
        yield (
            f"[stop] is likely to end after {_cost(adaptive.forecast)}; uniform sampling of its {adaptive.domains} parts per"
            f" {adaptive.per} under the same rule: {_cost(adaptive.forecast_uniform)}, {fewer:.1f} times as many"
        )
        yield f"that is a forecast: {adaptive.because}; tell another rate with --rate"
        yield (
            f"whatever the rates, [stop] ends with {adaptive.faults_at_least:,} faults or more; in one go, uniform sampling to"
            f" {_asked(adaptive)} takes {_cost(adaptive.expected)}"
        )


def _asked(adaptive: AdaptiveBounds) -> str:
    """Say what is asked of the rate that needs most faults, or of the one that was said."""
    if adaptive.relative is None:
        return f"its margin at a rate of {100 * adaptive.rate:g} %"
    return f"+-{100 * adaptive.relative:g} % of rates of {100 * adaptive.rate:.3g} %"


def _protected_line(totals: PreviewTotals | None) -> Iterable[str]:
    if totals is not None:
        yield f"protected, it draws {_cost(totals.drawn)} of {totals.population:,}, those in the checks with them"


def _cost(cost: PreviewCost) -> str:
    seconds = "" if cost.seconds is None else f", about {cost.seconds:,.0f} s"
    return f"{cost.faults:,} faults, {cost.rows:,} rows{seconds}"
