"""Fuzziness averaged over trainings that differ by their seed: mean and sample standard deviation (n - 1)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from testbed.core.errors import UsageError
from testbed.core.folder.files import write_text
from testbed.core.folder.runfolder import RunFolder
from testbed.models.runs import open_model_run
from testbed.sensitivity.fuzziness.artefacts import LOG, RunFuzziness, fits_of, recorded_log, short
from testbed.sensitivity.fuzziness.fits import Fits
from testbed.sensitivity.fuzziness.log import EpochFuzziness
from testbed.sensitivity.fuzziness.plots import accuracy_figure, epochs_figure, layers_figure, save_png

TABLE, PICTURE = "average.csv", "average.png"
EPOCHS_TABLE, EPOCHS_PICTURE, ACCURACY_PICTURE = "average_epochs.csv", "average_epochs.png", "average_accuracy.png"
_CURVES = ("train_loss", "train_accuracy", "test_accuracy")


@dataclass(frozen=True)
class Mean:
    value: float
    std: float


@dataclass(frozen=True)
class Average:
    """Over ``runs``; ``fits`` are of the means."""

    runs: list[str]
    data: str
    images: int
    layers: dict[str, Mean]
    accuracy: Mean
    loss: Mean
    fits: Fits


@dataclass(frozen=True)
class EpochAverage:
    """Over runs that all recorded this epoch; the fields of ``EpochFuzziness``."""

    epoch: int
    train_loss: Mean
    train_accuracy: Mean
    test_accuracy: Mean
    layers: dict[str, Mean]


def check_alike(paths: Sequence[Path]) -> None:
    """Raises UsageError unless these are two folders or more, of models of one architecture for the same data."""
    if len(paths) < 2 or len({path.resolve() for path in paths}) < len(paths):
        raise UsageError("an average takes two run folders or more, each of them once")
    runs = [open_model_run(path) for path in paths]
    first = runs[0]
    for path, run in zip(paths[1:], runs[1:], strict=True):
        if run.model.config != first.model.config:
            raise UsageError(
                f"the model in {path} is of another architecture than that in {paths[0]}; average equal ones"
            )
        named = [
            None if side.data is None else (side.data.name, side.data.preprocess, side.data.classes)
            for side in (first, run)
        ]
        if named[0] != named[1]:
            raise UsageError(f"the model in {path} is for other data than that in {paths[0]}; average equal ones")


def average(measured: Sequence[RunFuzziness]) -> Average:
    """The average of runs for which `check_alike` holds, measured alike."""
    first = measured[0]
    layers = {name: _mean([run.result.layers[name] for run in measured]) for name in first.result.layers}
    return Average(
        runs=[run.run for run in measured],
        data=first.data,
        images=first.result.images,
        layers=layers,
        accuracy=_mean([run.result.accuracy for run in measured]),
        loss=_mean([run.result.loss for run in measured]),
        fits=fits_of(_values(layers), first.depth),
    )


def recorded_average(paths: Sequence[Path]) -> list[EpochAverage]:
    """The average of the epochs that the trainings in all these folders recorded. Raises UsageError where there is
    none."""
    logs = [{row.epoch: row for row in recorded_log(path)} for path in paths]
    epochs = sorted(set.intersection(*(set(log) for log in logs)))
    if not epochs:
        raise UsageError("the trainings have no recorded epoch in common; train them with the same --fuzziness-every")
    return [_epoch([log[epoch] for log in logs]) for epoch in epochs]


def all_recorded(paths: Sequence[Path]) -> bool:
    return all((RunFolder.existing(path) / LOG).exists() for path in paths)


def write_average(folder: Path, mean_of_runs: Average, epochs: Sequence[EpochAverage]) -> list[Path]:
    """Table and picture over the layers and, where there are ``epochs``, over those; returns the files."""
    n = len(mean_of_runs.runs)
    _write_csv(
        folder / TABLE,
        ["layer", "fuzziness_mean", "fuzziness_std"],
        [[name, mean.value, mean.std] for name, mean in mean_of_runs.layers.items()],
    )
    text = [
        f"accuracy {100 * mean_of_runs.accuracy.value:.2f} ± {100 * mean_of_runs.accuracy.std:.2f} %",
        f"loss {mean_of_runs.loss.value:.4f} ± {mean_of_runs.loss.std:.4f} nats",
    ]
    title = f"mean and standard deviation of {n} models on {short(mean_of_runs.data)}"
    figure = layers_figure(
        _values(mean_of_runs.layers), mean_of_runs.fits, title, text, spread=_spreads(mean_of_runs.layers)
    )
    save_png(folder / PICTURE, figure)
    if not epochs:
        return [folder / TABLE, folder / PICTURE]
    columns = epoch_columns(epochs[0])
    header = ["epoch", *(f"{name}_{what}" for name in columns for what in ("mean", "std"))]
    rows = [[row.epoch, *(v for mean in epoch_columns(row).values() for v in (mean.value, mean.std))] for row in epochs]
    _write_csv(folder / EPOCHS_TABLE, header, rows)
    means = [
        EpochFuzziness(
            row.epoch,
            row.train_loss.value,
            row.train_accuracy.value,
            row.test_accuracy.value,
            _values(row.layers),
        )
        for row in epochs
    ]
    spread = [_spreads(epoch_columns(row)) for row in epochs]
    save_png(folder / EPOCHS_PICTURE, epochs_figure(means, mean_of_runs.layers, title, spread))
    save_png(folder / ACCURACY_PICTURE, accuracy_figure(means, title, spread))
    names = (TABLE, PICTURE, EPOCHS_TABLE, EPOCHS_PICTURE, ACCURACY_PICTURE)
    return [folder / name for name in names]


def epoch_columns(row: EpochAverage) -> dict[str, Mean]:
    """Everything that was averaged, by its name in the log."""
    return {name: getattr(row, name) for name in _CURVES} | row.layers


def _epoch(rows: Sequence[EpochFuzziness]) -> EpochAverage:
    curves = {name: _mean([getattr(row, name) for row in rows]) for name in _CURVES}
    layers = {name: _mean([row.layers[name] for row in rows]) for name in rows[0].layers}
    return EpochAverage(rows[0].epoch, **curves, layers=layers)


def _mean(values: Sequence[float]) -> Mean:
    with np.errstate(invalid="ignore"):  # a layer of infinite fuzziness has no spread
        return Mean(float(np.mean(values)), float(np.std(values, ddof=1)))


def _values(means: Mapping[str, Mean]) -> dict[str, float]:
    return {name: mean.value for name, mean in means.items()}


def _spreads(means: Mapping[str, Mean]) -> dict[str, float]:
    return {name: mean.std for name, mean in means.items()}


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerows([header, *rows])
    write_text(path, text.getvalue())
