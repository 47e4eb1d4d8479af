"""``testbed campaign ber``: accuracy against the bit-error rate of the weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.cli.common import emit, example, json_option, run_option
from testbed.cli.options.numbers import LARGEST_SEED, Whole
from testbed.cli.options.types import GridOption
from testbed.core.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from testbed.ber.record import BitErrorRecord, RateOverRepeats

RATES = "1e-9,1e-8,1e-7,1e-6,1e-5,1e-4"


@click.command(
    "ber",
    epilog=example(
        "testbed campaign ber runs/digits",
        "testbed campaign ber digits.toml --rates 1e-6,1e-5,1e-4 --repeats 20",
        'testbed campaign ber runs/digits --site "block.0.*" --images 500 --json > ber.json',
    ),
)
@click.argument("subject", metavar="SPEC|DIR", type=click.Path(path_type=Path))
@click.option("--rates", type=GridOption(), default=RATES, show_default=True, help="Probabilities of each bit to flip.")
@click.option("--repeats", type=Whole(2, 100_000), default=10, show_default=True, help="Sets of flips per rate.")
@click.option(
    "--site", "sites", multiple=True, metavar="PATTERN", help='Only these weights; "!PATTERN" leaves some out.'
)
@click.option("--images", type=Whole(1), help="Only so many test images: a random choice, by class.")
@click.option("--seed", type=Whole(0, LARGEST_SEED), help="Of the flips; the campaign's unless said.")
@run_option(required=False)
@json_option
def ber(
    subject: Path,
    rates: tuple[float, ...],
    repeats: int,
    sites: tuple[str, ...],
    images: int | None,
    seed: int | None,
    run: Path | None,
    as_json: bool,
) -> None:
    """Flip every bit of the weights with one probability, and tell the accuracy that is left.

    All test images are asked about, in the compiled engine, with all flips of a repeat in its weights at once; then they
    are put back. SPEC is prepared first (in runs/NAME unless --run says otherwise); DIR is a campaign's run folder. No
    file of a finished campaign is changed.
    """
    from testbed.ber.run import prepared, run_ber
    from testbed.campaign.spec.campaign import load_spec
    from testbed.cli.progress import log_to_stderr, progress_on_stderr

    log_to_stderr()
    if subject.is_dir():
        if run is not None:
            raise UsageError(f"{subject} is a run folder already; --run is for a spec")
        preparation = prepared(subject)
    else:
        spec = load_spec(subject)
        preparation = prepared(
            run or Path("runs") / spec.name,
            spec,
            lambda stage, total, what: progress_on_stderr(total, f"{stage}: {what}"),
        )
    result = run_ber(
        preparation,
        rates,
        repeats,
        sites=sites or ("*",),
        images=images,
        seed=seed,
        progress=lambda total: progress_on_stderr(total, "images"),
    )
    emit(result.to_json(), as_json, lambda: _rates_table(result))


def _rates_table(result: BitErrorRecord) -> RenderableType:
    from testbed.cli.tables.fitting import FittedTable
    from testbed.cli.tables.prose import Prose, stacked

    engine, confidence = result.engine, f"{100 * result.confidence:g} %"
    head = Prose(
        f"{result.name}: {engine.backend} {engine.precision}, {result.images:,} test images of"
        f" {len(result.classes)} classes, {len(result.sites)} weights of {result.bits:,} bits, accuracy"
        f" {100 * result.accuracy:.2f} % without flips",
        bold=len(result.name),
    )
    table = FittedTable(
        title=f"{result.repeats} repeats per rate, seed {result.seed}; in %, {confidence} intervals over repeats",
    )
    checks_itself = any(record.detected is not None for record in result.rates)
    more = ("detected",) if checks_itself else ()
    for name in ("bit-error rate", "flips", "accuracy", "SDC-1", "non-finite", *more):
        table.add_column(name, justify="right" if name in ("bit-error rate", "flips") else "left", no_wrap=True)
    for record in result.rates:
        measures = (record.accuracy, record.sdc1, record.nonfinite, record.detected)
        cells = [_percent(measure) for measure in measures if measure is not None]
        table.add_row(f"{record.rate:g}", f"{record.flips.mean:,.1f}", *cells)
    return stacked([head, table])


def _percent(rate: RateOverRepeats) -> str:
    return f"{100 * rate.rate:6.2f} [{100 * rate.low:.2f}, {100 * rate.high:.2f}]"
