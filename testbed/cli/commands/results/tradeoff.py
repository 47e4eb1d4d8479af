"""``testbed tradeoff``: several models, their accuracy, latency and vulnerability, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.cli.common import emit, example, json_option, say
from testbed.cli.options.numbers import LARGEST_BATCH, Number, Threads, Whole
from testbed.cli.options.types import CountsOption, EngineOption
from testbed.core.formats import PRECISIONS
from testbed.core.words.text import percent_interval

if TYPE_CHECKING:
    from rich.console import RenderableType

    from testbed.bench.tradeoff import Tradeoff


@click.command(
    epilog=example(
        "testbed tradeoff runs/vit runs/pruned/eap-keep0.5 --to runs/tradeoff",
        "testbed tradeoff runs/vit runs/half --campaign runs/c-vit --campaign runs/c-half --to runs/tradeoff --json",
    )
)
@click.argument("folders", nargs=-1, required=True, type=click.Path(file_okay=False, path_type=Path), metavar="DIR...")
@click.option(
    "--campaign",
    "campaigns",
    multiple=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="A finished campaign of one of the models.",
)
@click.option(
    "--to", type=click.Path(file_okay=False, path_type=Path), required=True, metavar="DIR", help="For the page."
)
@click.option("--engine", type=EngineOption(), default="ort-cpu", show_default=True, help="Of latency and accuracy.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    show_default=True,
    help="Number format of the timed engines.",
)
@click.option(
    "--batch",
    "batches",
    type=CountsOption(LARGEST_BATCH),
    default="1,32",
    show_default=True,
    help="The first is what counts.",
)
@click.option("--threads", type=Threads(), default=1, show_default=True, help="Of the engine.")
@click.option("--seconds", type=Number(1e-6, 1e7), default=3.0, show_default=True, help="Per engine.")
@click.option("--runs", type=Whole(2, 1_000_000), default=100, show_default=True, help="Per engine, if that is less.")
@click.option("--allowed-drop", type=Number(0, 100), default=1.0, show_default=True, help="Of accuracy, in points.")
@json_option
def tradeoff(
    folders: tuple[Path, ...],
    campaigns: tuple[Path, ...],
    to: Path,
    engine: str,
    precision: str,
    batches: tuple[int, ...],
    threads: int,
    seconds: float,
    runs: int,
    allowed_drop: float,
    as_json: bool,
) -> None:
    """Put the models in DIR... side by side: accuracy, latency and, from their campaigns, SDC-1; ratios are to the first.

    Writes metrics.json, tradeoff.png (six views) and tradeoff.html into --to, with the Pareto front and a recommendation
    that says why. Every number carries the hash of the engine it was measured on.
    """
    from testbed.bench.latency import Question
    from testbed.bench.timing import LEAST_ROUNDS, Budget
    from testbed.bench.tradeoff import tradeoff as joined
    from testbed.cli.progress import log_to_stderr
    from testbed.report.tradeoff import write_tradeoff

    if min(batches) < 1:
        raise click.UsageError("--batch names images per run: 1 or more")
    log_to_stderr()
    question = Question(
        engine, precision, tuple(batches), threads, Budget(seconds=seconds, runs=max(runs, LEAST_ROUNDS))
    )
    comparison = joined(folders, campaigns, question, allowed_drop / 100, say)
    write_tradeoff(to, comparison)
    emit(comparison, as_json, lambda: _tradeoff_text(comparison, to))


def _tradeoff_text(comparison: Tradeoff, to: Path) -> RenderableType:
    from testbed.cli.tables.fitting import FittedTable
    from testbed.cli.tables.prose import stacked

    plain = FittedTable(title=f"plain engines, batch {comparison.batch}")
    for name in ("model", "engine", "accuracy %", "p50 ms", "time ratio", "MACs ratio", "accuracy per ms", "Pareto"):
        plain.add_column(name, justify="left" if name in ("model", "engine") else "right")
    first = comparison.entries[0].latency[0]
    twins = FittedTable(title="their twins: SDC-1 of single flips in activations, 95 % intervals")
    for name in ("model", "twin engine", "SDC-1 %", "faults", "drift from plain"):
        twins.add_column(name, justify="left" if name in ("model", "twin engine") else "right")
    for entry in comparison.entries:
        row, ratio = entry.latency[0], entry.latency[0].ratio_to_baseline
        plain.add_row(
            entry.model,
            row.engine_hash,
            f"{100 * entry.quality.top1:.2f}",
            f"{row.p50_ms:.3g}",
            "" if ratio is None else str(ratio),
            f"{row.macs / first.macs:.3f}",
            f"{entry.accuracy_per_ms:.3g}",
            "yes" if entry.pareto else "",
        )
        if v := entry.vulnerability:
            rate = percent_interval(v.rate, v.low, v.high)
            twins.add_row(entry.model, v.engine_hash, rate, f"{v.faults:,}", f"{v.drift_max_abs:.3g}")
    parts = [plain, *([twins] if twins.row_count else [])]
    return stacked([*parts, comparison.why, f"page: {to / 'tradeoff.html'}"])
