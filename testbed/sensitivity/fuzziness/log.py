"""Fuzziness while a model is trained: one row per analysed epoch, kept in a table that outlives a kill.

The recorder is a callback of ``testbed.train``. A row is written before the training's checkpoint is, so an epoch that
was interrupted between the two is trained again: its row, and any later one, goes before it is recorded anew.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.folder.files import write_text
from testbed.data import Split
from testbed.models.vit import ViT
from testbed.sensitivity.fuzziness.layers import check_images, measure_layers
from testbed.train.record import EpochRecord

_CURVES = ("train_loss", "train_accuracy", "test_accuracy")


@dataclass(frozen=True)
class EpochFuzziness:
    """Fuzziness after ``epoch`` (from 1): training loss (nats) and accuracy as ``EpochRecord`` has them, accuracy on
    the test images, and layer -> fuzziness of the test images. Accuracies in [0, 1]."""

    epoch: int
    train_loss: float
    train_accuracy: float
    test_accuracy: float
    layers: Mapping[str, float]


def due(epoch: int, every: int, epochs: int) -> bool:
    """Is it one of every, 2 every, ..., or the last?"""
    return epoch % every == 0 or epoch == epochs


class Recorder:
    """Measures the model after the epochs that are `due`, into the table ``path``.

    ``test``: the official test split; nothing is chosen by it. The table of a training that goes on is continued, that
    of another one replaced at epoch 1. Raises UsageError where ``test`` has too few images or classes.
    """

    def __init__(
        self, path: Path, test: Split, classes: int, *, every: int, epochs: int, weighted: bool = False
    ) -> None:
        if every < 1:
            raise UsageError(f"fuzziness is recorded every 1 epoch or more, not every {every}")
        check_images(test, classes)
        self.path, self.test, self.every, self.epochs, self.weighted = path, test, every, epochs, weighted
        self.called = False

    def __call__(self, epoch: int, model: ViT, record: EpochRecord) -> None:
        self.called = True
        kept = read_log(self.path) if self.path.exists() else []
        rows = [row for row in kept if row.epoch < epoch]
        if due(epoch, self.every, self.epochs):
            result = measure_layers(model, self.test, weighted=self.weighted)
            rows.append(
                EpochFuzziness(epoch, record.train_loss, record.train_accuracy, result.accuracy, dict(result.layers))
            )
        if rows != kept:
            write_log(self.path, rows)


def write_log(path: Path, rows: Sequence[EpochFuzziness]) -> None:
    """CSV: epoch, train_loss, train_accuracy, test_accuracy, then a column per layer. Numbers read back exactly."""
    layers = list(rows[0].layers) if rows else []
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["epoch", *_CURVES, *layers])
    for row in rows:
        table.writerow([row.epoch, *(getattr(row, name) for name in _CURVES), *(row.layers[name] for name in layers)])
    write_text(path, text.getvalue())


def read_log(path: Path) -> list[EpochFuzziness]:
    """Raises StaleArtefact for a file that `write_log` did not write."""
    try:
        with open(path, newline="") as file:
            return [_row(record) for record in csv.DictReader(file, strict=True)]
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise StaleArtefact(f"{path} is no log of fuzziness; delete it, and train again to have it recorded") from error


def _row(record: Mapping[str, str]) -> EpochFuzziness:
    layers = {name: float(text) for name, text in record.items() if name not in ("epoch", *_CURVES)}
    curves = {name: float(record[name]) for name in _CURVES}
    return EpochFuzziness(int(record["epoch"]), **curves, layers=layers)
