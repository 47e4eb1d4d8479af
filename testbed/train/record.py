"""What is known of one epoch, and who may want to know."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Protocol

from testbed.models.vit import ViT


@dataclass(frozen=True)
class EpochRecord:
    """``epoch`` counts from 1. Training figures are means over the epoch's batches as they were trained on (augmented,
    with dropout and label smoothing); validation figures are of the model after the epoch, NaN without validation
    images. Accuracies in [0, 1], losses in nats."""

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    seconds: float

    def to_json(self) -> dict[str, float]:
        return asdict(self)


class Callback(Protocol):
    """Called after each epoch, before its checkpoint is written: an epoch that was interrupted is trained and reported
    again. ``model`` is in evaluation mode, on the training's device, and must not be changed."""

    def __call__(self, epoch: int, model: ViT, record: EpochRecord) -> None: ...
