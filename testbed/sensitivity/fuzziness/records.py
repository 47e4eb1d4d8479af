"""What is told of separation fuzziness, for programs: of a model, of the average of several, and by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from testbed.core.errors import UsageError
from testbed.sensitivity.fuzziness.artefacts import RunFuzziness, fits_of, recorded_log
from testbed.sensitivity.fuzziness.average import Average, EpochAverage, Mean, recorded_average
from testbed.sensitivity.fuzziness.fits import ExponentialFit, Fits, SeparationFit
from testbed.sensitivity.fuzziness.log import EpochFuzziness


@dataclass(frozen=True)
class LayerValue:
    """D of a layer."""

    name: str
    fuzziness: float


@dataclass(frozen=True)
class LayerMean(LayerValue):
    """Mean D of a layer over models."""

    std: float


@dataclass(frozen=True)
class FitsRecord:
    """The fits over the blocks; `why_not` where one is not there."""

    exponential: ExponentialFit | None
    separation: SeparationFit | None
    why_not: str | None

    @classmethod
    def of(cls, fits: Fits) -> Self:
        """Tell the fits."""
        return cls(fits.exponential, fits.separation, fits.why_not or None)


@dataclass(frozen=True)
class FuzzinessRecord:
    """Fuzziness of one model. accuracy: in [0, 1]; loss: in nats."""

    layers: tuple[LayerValue, ...]
    fits: FitsRecord
    images: int
    classes: int
    data: str
    accuracy: float
    loss: float
    run: str

    @classmethod
    def of(cls, measured: RunFuzziness) -> Self:
        """Tell what was measured."""
        result = measured.result
        layers = tuple(LayerValue(name, value) for name, value in result.layers.items())
        fits = FitsRecord.of(measured.fits)
        return cls(
            layers, fits, result.images, result.classes, measured.data, result.accuracy, result.loss, measured.run
        )


@dataclass(frozen=True)
class EpochRow:
    """Fuzziness after an epoch of training, of one model or the means of several."""

    epoch: int
    train_loss: float | Mean
    train_accuracy: float | Mean
    test_accuracy: float | Mean
    layers: tuple[LayerValue, ...]
    fits: FitsRecord

    @classmethod
    def of(cls, row: EpochFuzziness | EpochAverage, names: Sequence[str] | None = None) -> Self:
        """Tell an epoch. names: of the layers that are told; all, if None."""
        if isinstance(row, EpochAverage):
            values = {name: layer.value for name, layer in row.layers.items()}
            layers: list[LayerValue] = [
                LayerMean(name, row.layers[name].value, row.layers[name].std) for name in names or values
            ]
        else:
            values = dict(row.layers)
            layers = [LayerValue(name, values[name]) for name in names or values]
        depth = sum(name.startswith("block.") for name in values)
        fits = FitsRecord.of(fits_of(values, depth))
        return cls(row.epoch, row.train_loss, row.train_accuracy, row.test_accuracy, tuple(layers), fits)


@dataclass(frozen=True)
class AverageRecord:
    """The average over several models; `files` that were written."""

    layers: tuple[LayerMean, ...]
    fits: FitsRecord
    images: int
    data: str
    accuracy: Mean
    loss: Mean
    runs: tuple[str, ...]
    epochs: tuple[EpochRow, ...]
    files: tuple[Path, ...]

    @classmethod
    def of(cls, mean: Average, epochs: Sequence[EpochAverage], files: Sequence[Path]) -> Self:
        """Tell an average."""
        layers = tuple(LayerMean(name, layer.value, layer.std) for name, layer in mean.layers.items())
        rows = tuple(EpochRow.of(row) for row in epochs)
        fits = FitsRecord.of(mean.fits)
        return cls(layers, fits, mean.images, mean.data, mean.accuracy, mean.loss, tuple(mean.runs), rows, tuple(files))


@dataclass(frozen=True)
class EpochsRecord:
    """What trainings recorded of themselves."""

    run: tuple[str, ...]
    epochs: tuple[EpochRow, ...]


@dataclass(frozen=True)
class RecordedEpochs:
    """The logs of trainings, or the averages of several, and the layers asked for."""

    rows: Sequence[EpochFuzziness] | Sequence[EpochAverage]
    names: tuple[str, ...]
    record: EpochsRecord


def recorded_epochs(folders: Sequence[Path], layers: Sequence[str] | None, averaged: bool) -> RecordedEpochs:
    """Read what the trainings in these folders recorded. averaged: the means of several.

    Raises UsageError where nothing was recorded, and for a layer that the model does not have.
    """
    rows: Sequence[EpochFuzziness] | Sequence[EpochAverage]
    rows = recorded_average(folders) if averaged else recorded_log(folders[0])
    known = list(rows[0].layers) if rows else []
    if unknown := [name for name in layers or [] if rows and name not in known]:
        raise UsageError(f"the model has no layer {unknown[0]!r}; layers: {', '.join(known)}")
    names = tuple(name for name in known if layers is None or name in layers)
    epochs = tuple(EpochRow.of(row, names) for row in rows)
    return RecordedEpochs(rows, names, EpochsRecord(tuple(map(str, folders)), epochs))
