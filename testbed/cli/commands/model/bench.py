"""``testbed bench``: latency of models as deployed, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from testbed.cli.common import emit, example, json_option, say
from testbed.cli.options.numbers import LARGEST_BATCH, Number, Threads, Whole
from testbed.cli.options.types import CountsOption, EngineOption
from testbed.core.errors import GateFailed
from testbed.core.formats import PRECISIONS
from testbed.engines.backends import BACKENDS

if TYPE_CHECKING:
    from rich.console import RenderableType

    from testbed.bench.latency import LatencyRow


@click.command(
    epilog=example(
        "testbed bench runs/vit",
        "testbed bench runs/vit runs/vit-keep.5 --baseline runs/vit --batch 1,32",
        "testbed bench runs/new --baseline runs/old --max-ratio 1.05 --json > bench.json",
    )
)
@click.argument("folders", nargs=-1, required=True, type=click.Path(file_okay=False, path_type=Path), metavar="DIR...")
@click.option(
    "--engine",
    type=EngineOption(),
    default="ort-cpu",
    show_default=True,
    help=f"{', '.join(BACKENDS)}, or one of another package.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    show_default=True,
    help="Number format of the timed engines.",
)
@click.option(
    "--batch", "batches", type=CountsOption(LARGEST_BATCH), default="1,8,32", show_default=True, help="Images per run."
)
@click.option("--threads", type=Threads(), default=1, show_default=True, help="Of the engine.")
@click.option(
    "--seconds",
    type=Number(1e-6),
    default=3.0,
    show_default=True,
    help="Per engine and batch, or ...",
)
@click.option(
    "--runs",
    type=Whole(2, 1_000_000),
    default=100,
    show_default=True,
    help="... so many runs, whichever is less; 6 at least.",
)
@click.option(
    "--baseline", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Ratios are to this model."
)
@click.option("--max-ratio", type=Number(1e-6), help="Exit 3 if a median is surely above this ratio.")
@json_option
def bench(
    folders: tuple[Path, ...],
    engine: str,
    precision: str,
    batches: tuple[int, ...],
    threads: int,
    seconds: float,
    runs: int,
    baseline: Path | None,
    max_ratio: float | None,
    as_json: bool,
) -> None:
    """Time the plain engines of the models in DIR..., in turns: percentiles, throughput, parameters and MACs.

    Never an instrumented engine. Absolute times are this machine's now; ratios to --baseline are of runs made in turns,
    with 95 % intervals. --json has every single run.
    """
    from testbed.bench.latency import Question, measure
    from testbed.bench.timing import LEAST_ROUNDS, Budget
    from testbed.cli.progress import log_to_stderr

    if max_ratio is not None and baseline is None:
        raise click.UsageError("--max-ratio needs --baseline DIR")
    if min(batches) < 1:
        raise click.UsageError("--batch names images per run: 1 or more")
    log_to_stderr()
    question = Question(
        engine, precision, tuple(batches), threads, Budget(seconds=seconds, runs=max(runs, LEAST_ROUNDS))
    )
    rows = measure(folders, question, baseline, say)
    emit({"rows": rows}, as_json, lambda: _latency_table(rows))
    slower = [
        row
        for row in rows
        if max_ratio is not None and row.ratio_to_baseline and (row.ratio_to_baseline.low or 0.0) > max_ratio
    ]
    if slower:
        worst = max(slower, key=lambda row: row.ratio_to_baseline.value if row.ratio_to_baseline else 0.0)
        assert worst.ratio_to_baseline is not None
        raise GateFailed(
            f"{worst.model} at batch {worst.batch} takes {worst.ratio_to_baseline.value:.3f} of the baseline's time, above"
            f" --max-ratio {max_ratio:g}"
        )


def _latency_table(rows: list[LatencyRow]) -> RenderableType:
    from testbed.cli.tables.fitting import FittedTable
    from testbed.cli.tables.prose import stacked

    first = rows[0]
    table = FittedTable(title=f"{first.engine}, {first.precision}, {first.threads} thread(s)")
    for name in (
        "model",
        "batch",
        "p50 ms",
        "p90",
        "p95",
        "p99",
        "images/s",
        "MACs",
        "parameters",
        "time ratio",
        "engine",
    ):
        table.add_column(name, justify="left" if name in ("model", "engine") else "right")
    for row in rows:
        ratio = row.ratio_to_baseline
        table.add_row(
            row.model,
            str(row.batch),
            *(f"{value:.3g}" for value in (row.p50_ms, row.p90_ms, row.p95_ms, row.p99_ms)),
            f"{row.throughput_per_s:.4g}",
            f"{row.macs / 1e6:.4g} M",
            f"{row.parameters / 1e6:.4g} M",
            "" if ratio is None else str(ratio),
            row.engine_hash,
        )
    parts: list[RenderableType] = [table]
    for row in rows:
        if row.phases_ms:
            phases = ", ".join(f"{name.removesuffix('_ms')} {value:.3g} ms" for name, value in row.phases_ms.items())
            parts.append(f"{row.model}, batch {row.batch}: {phases}")
    return stacked(parts)
