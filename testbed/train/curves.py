"""The curves of a training as a table and as a picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from testbed.core.errors import StaleArtefact
from testbed.core.folder.figures import save_figure
from testbed.core.folder.files import csv_text, write_text
from testbed.core.words.text import drawn
from testbed.train.record import EpochRecord


def write_csv(path: Path, curves: Sequence[EpochRecord]) -> None:
    """One row per epoch under the names of ``EpochRecord``; numbers read back exactly."""
    columns = [field.name for field in fields(EpochRecord)]
    write_text(path, csv_text([record.to_json() for record in curves], columns))


def read_csv(path: Path) -> list[EpochRecord]:
    """What `write_csv` wrote. Raises StaleArtefact for another file."""
    try:
        with open(path, newline="") as file:
            rows = [{name: float(text) for name, text in row.items()} for row in csv.DictReader(file, strict=True)]
            return [EpochRecord(epoch=int(row.pop("epoch")), **row) for row in rows]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, csv.Error) as error:
        raise StaleArtefact(f"{path} is no table of a training's curves; delete it to have it written again") from error


def write_png(path: Path, curves: Sequence[EpochRecord], best_epoch: int, title: str) -> None:
    """Loss and accuracy against the epoch, training and validation; the chosen epoch is marked."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(drawn(title))
    loss, accuracy = figure.subplots(1, 2)
    _panel(loss, curves, "loss", 1, "loss (nats)")
    _panel(accuracy, curves, "accuracy", 100, "accuracy (%)")
    for axes in (loss, accuracy):
        axes.axvline(best_epoch, color="0.6", linestyle=":", label=f"kept: epoch {best_epoch}")
        axes.legend()
    save_figure(path, figure)


def _panel(axes: Axes, curves: Sequence[EpochRecord], measure: str, scale: float, label: str) -> None:
    epochs = [record.epoch for record in curves]
    for part, colour in (("train", "tab:blue"), ("validation", "tab:orange")):
        values = [scale * getattr(record, f"{part}_{measure}") for record in curves]
        axes.plot(epochs, values, color=colour, marker="." if len(epochs) < 3 else "", label=part)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel=label)
    axes.grid(alpha=0.3)
