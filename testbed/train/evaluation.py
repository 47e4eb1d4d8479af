"""Accuracy, loss and logits of a model on a split, in order, without dropout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from testbed.data import Split


class ModelScore(NamedTuple):
    """``accuracy`` in [0, 1]; ``loss`` is the mean cross-entropy in nats, without smoothing. NaN for no images."""

    accuracy: float
    loss: float


def evaluate(model: nn.Module, split: Split, batch: int = 256) -> ModelScore:
    """Score over every image of the split."""
    if not len(split):
        return ModelScore(float("nan"), float("nan"))
    outputs = torch.from_numpy(logits(model, split, batch)).double()
    labels = torch.from_numpy(np.array(split.labels))
    accuracy = (outputs.argmax(1) == labels).double().mean().item()
    return ModelScore(accuracy, nn.functional.cross_entropy(outputs, labels).item())


def logits(model: nn.Module, images: Split | Tensor | np.ndarray, batch: int = 256) -> np.ndarray:
    """(n, K) float32, in the order of ``images``: a split, or normalised model input (n, C, S, S)."""
    device = next(model.parameters()).device
    with evaluating(model), torch.no_grad():
        return np.concatenate([model(part.to(device)).float().cpu().numpy() for part in _batches(images, batch)])


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the mode it had before afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _batches(images: Split | Tensor | np.ndarray, size: int) -> Iterator[Tensor]:
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        yield torch.as_tensor(images.batch(part) if isinstance(images, Split) else images[part])
