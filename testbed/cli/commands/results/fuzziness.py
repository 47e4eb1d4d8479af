"""``testbed fuzziness``: how far each layer separates the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from testbed.cli.common import emit, example, json_option
from testbed.cli.options.numbers import Threads, Whole

if TYPE_CHECKING:
    from rich.console import RenderableType

    from testbed.sensitivity.fuzziness.artefacts import RunFuzziness
    from testbed.sensitivity.fuzziness.average import Average, EpochAverage
    from testbed.sensitivity.fuzziness.fits import Fits
    from testbed.sensitivity.fuzziness.log import EpochFuzziness

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(
    epilog=example(
        "testbed fuzziness runs/vit",
        "testbed fuzziness runs/vit --layers block.0,block.1,block.2,logits --images 1000 --json",
        "testbed fuzziness runs/vit --per-epoch",
        "testbed fuzziness runs/vit --per-epoch --to runs/pictures",
        "testbed fuzziness runs/seed-0 runs/seed-1 runs/seed-2 --average --to runs/average",
    )
)
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=_FOLDER)
@click.option("--layers", metavar="A,B,...", help="Of pixels, block.0, block.1, ..., logits; by default all.")
@click.option(
    "--images",
    type=Whole(1),
    metavar="N",
    help="Only N test images, a random choice by class; by default all.",
)
@click.option("--weighted", is_flag=True, help="Classes weigh by their number of images, not equally.")
@click.option("--per-epoch", is_flag=True, help="What `testbed train --fuzziness-every` recorded; measures nothing.")
@click.option("--average", "averaged", is_flag=True, help="Mean and standard deviation over several folders.")
@click.option(
    "--to", type=_FOLDER, metavar="DIR", help="With --average or --per-epoch: write tables and pictures there."
)
@click.option("--threads", type=Threads(), default=1, show_default=True, help="CPU threads.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, or auto: cuda where there is one.")
@json_option
def fuzziness(
    folders: tuple[Path, ...],
    layers: str | None,
    images: int | None,
    weighted: bool,
    per_epoch: bool,
    averaged: bool,
    to: Path | None,
    threads: int,
    device: str,
    as_json: bool,
) -> None:
    """Measure separation fuzziness D = Tr(Sw pinv(Sb)) of every layer of the model in DIR, over the test images.

    The lower D, the better a layer separates the classes. Fitted to the blocks are a exp(-b x) + c and the law of
    separation, ln D linear in x. Writes DIR/fuzziness.csv and DIR/fuzziness.png; a campaign's folder is only read.
    """
    if len(folders) > 1 and not averaged:
        raise click.UsageError("several folders are averaged: add --average")
    if to and averaged == per_epoch:
        raise click.UsageError("--to goes with --average or --per-epoch; a single folder holds its own artefacts")
    if per_epoch and (images or weighted):
        raise click.UsageError("--per-epoch shows what was recorded; it takes no --images or --weighted")
    wanted = None if layers is None else layers.split(",")
    if averaged:
        from testbed.sensitivity.fuzziness.average import check_alike

        check_alike(folders)
    if per_epoch:
        _recorded(folders, wanted, averaged, to, as_json)
        return
    import torch

    from testbed.cli.progress import progress_on_stderr
    from testbed.sensitivity.fuzziness.artefacts import measure_run
    from testbed.sensitivity.fuzziness.records import AverageRecord, FuzzinessRecord

    torch.set_num_threads(threads)
    runs = [
        measure_run(
            folder,
            layers=wanted,
            images=images,
            weighted=weighted,
            device=device,
            progress=lambda total: progress_on_stderr(total, "images"),
        )
        for folder in folders
    ]
    if not averaged:
        emit(FuzzinessRecord.of(runs[0]), as_json, lambda: _layers_text(runs[0]))
        return
    from testbed.sensitivity.fuzziness.average import all_recorded, average, recorded_average, write_average

    mean = average(runs)
    epochs = recorded_average(folders) if all_recorded(folders) else []
    files = write_average(to, mean, epochs) if to else []
    emit(AverageRecord.of(mean, epochs, files), as_json, lambda: _average_text(mean, files))


def _recorded(
    folders: Sequence[Path], wanted: list[str] | None, averaged: bool, to: Path | None, as_json: bool
) -> None:
    """Shows the training's log, or the mean of several."""
    from testbed.sensitivity.fuzziness.artefacts import write_recorded
    from testbed.sensitivity.fuzziness.records import recorded_epochs

    recorded = recorded_epochs(folders, wanted, averaged)
    if to:
        write_recorded(folders[0], to)
    emit(recorded.record, as_json, lambda: _epochs_text(recorded.rows, recorded.names))


def _layers_text(measured: RunFuzziness) -> RenderableType:
    from testbed.cli.tables.prose import stacked

    result, fits = measured.result, measured.fits
    table = _layers_table(result.layers, fits)
    tail = (
        f"{result.images:,} test images of {measured.data}, {result.classes} classes: accuracy"
        f" {100 * result.accuracy:.2f} %, loss {result.loss:.4f} nats"
    )
    return stacked([table, *_fit_lines(fits, result.layers), tail])


def _average_text(mean: Average, files: Sequence[Path]) -> RenderableType:
    from testbed.cli.tables.prose import stacked

    values = {name: layer.value for name, layer in mean.layers.items()}
    spreads = {name: layer.std for name, layer in mean.layers.items()}
    table = _layers_table(values, mean.fits, spreads)
    tail = (
        f"{len(mean.runs)} models on {mean.images:,} test images of {mean.data}: accuracy"
        f" {100 * mean.accuracy.value:.2f} ± {100 * mean.accuracy.std:.2f} %"
    )
    return stacked([table, *_fit_lines(mean.fits, values), tail, *(f"written: {file}" for file in files)])


def _layers_table(
    layers: Mapping[str, float], fits: Fits, spreads: Mapping[str, float] | None = None
) -> RenderableType:
    from testbed.cli.tables.fitting import FittedTable

    table = FittedTable(title="separation fuzziness D")
    spread_heading = ["standard deviation"] if spreads else []
    for name in ("layer", "D", *spread_heading, "a exp(-b x) + c", "law of separation"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    x = 0
    for name, value in layers.items():
        x += name.startswith("block.")
        laws = [
            "" if fit is None or not name.startswith("block.") else f"{float(fit.at(x)):.5g}"
            for fit in (fits.exponential, fits.separation)
        ]
        table.add_row(name, f"{value:.5g}", *([f"{spreads[name]:.3g}"] if spreads else []), *laws)
    return table


def _fit_lines(fits: Fits, layers: Mapping[str, float]) -> list[str]:
    lines = []
    exact = " (three blocks are met exactly)" if sum(name.startswith("block.") for name in layers) == 3 else ""
    if (law := fits.exponential) is not None:
        lines.append(f"spike and decay: {law.a:.5g} exp(-{law.b:.5g} x) + {law.c:.5g}, R^2 {_number(law.r2)}{exact}")
    if (rule := fits.separation) is not None:
        lines.append(
            f"law of separation: rho {rule.rho:.4f} per block, R^2 {_number(rule.r2)}, Pearson r {_number(rule.r)}"
        )
    return [*lines, f"not fitted: {fits.why_not}"] if fits.why_not else lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _epochs_text(rows: Sequence[EpochFuzziness | EpochAverage], names: Sequence[str]) -> RenderableType:
    from testbed.cli.tables.fitting import FittedTable

    table = FittedTable(title="separation fuzziness D by epoch")
    for name in ("epoch", "train loss", "train %", "test %", *names):
        table.add_column(name, justify="right")
    for row in rows:
        accuracies = [_cell(value, ".2f", 100) for value in (row.train_accuracy, row.test_accuracy)]
        levels = [_cell(row.layers[name], ".4g") for name in names]
        table.add_row(str(row.epoch), _cell(row.train_loss, ".4f"), *accuracies, *levels)
    return table


def _cell(value: Any, form: str, factor: float = 1) -> str:
    """The cell of a number, or of a mean with its standard deviation."""
    if isinstance(value, float):
        return f"{factor * value:{form}}"
    return f"{factor * value.value:{form}} ± {factor * value.std:{form}}"
