"""Fuzziness of every layer of a model: raw pixels, the pooled token after each block, logits.

The vector of the published analysis: normalised pixels, the CLS token after every block, logits. A model without CLS
token, or one that pools by the mean, is looked at through the mean of the tokens that its head reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from torch import Tensor, nn

from testbed.core.errors import UsageError
from testbed.data import Split
from testbed.models.vit import ViT
from testbed.sensitivity.fuzziness.separation import RCOND, ClassMoments, WithinSpread

PIXELS, LOGITS = "pixels", "logits"
_BATCH = 64

Features = dict[str, NDArray[np.float32]]
Advance = Callable[[int], None]


@dataclass(frozen=True)
class LayerFuzziness:
    """``layers``: name -> fuzziness, of ``images`` images of ``classes`` classes, which the model classifies with this
    accuracy in [0, 1] and this mean cross-entropy in nats."""

    layers: dict[str, float]
    images: int
    classes: int
    accuracy: float
    loss: float


def layer_names(model: ViT) -> list[str]:
    """Layer names in the order of the forward pass."""
    return [PIXELS, *(f"block.{number}" for number in range(model.config.depth)), LOGITS]


def chosen_layers(model: ViT, layers: Iterable[str] | None) -> list[str]:
    """These, in the order of the forward pass, each once; all for None. Raises UsageError for one the model has not."""
    known = layer_names(model)
    wanted = known if layers is None else list(layers)
    if unknown := [name for name in wanted if name not in known]:
        raise UsageError(f"the model has no layer {unknown[0]!r}; layers: {', '.join(known)}")
    return [name for name in known if name in wanted]


def layer_fuzziness(
    model: ViT, split: Split, *, layers: Iterable[str] | None = None, weighted: bool = False, rcond: float = RCOND
) -> dict[str, float]:
    """Layer -> fuzziness, all layers of `layer_names` unless some are named; see `measure_layers`."""
    return measure_layers(model, split, layers=layers, weighted=weighted, rcond=rcond).layers


def measure_layers(
    model: ViT,
    split: Split,
    *,
    layers: Iterable[str] | None = None,
    weighted: bool = False,
    rcond: float = RCOND,
    advance: Advance = lambda images: None,
) -> LayerFuzziness:
    """Evaluation mode, no gradients, on the model's device; the mode that every module had is put back. Two passes over
    the images: nothing but class means is kept. ``advance`` is told of images done, each of them twice.

    Raises UsageError for fewer images than classes, images of one class, a layer that the model does not have, and
    features that are NaN or infinite, naming the layer.
    """
    wanted = chosen_layers(model, layers)
    check_images(split, model.config.classes)
    moments = {name: ClassMoments() for name in wanted}
    correct, loss = 0, 0.0
    with _evaluating(model):
        for features, labels in _features(model, split):
            for name in wanted:
                with _naming(name):
                    moments[name].add(features[name], labels)
            hit, nats = _scored(features[LOGITS], labels)
            correct, loss = correct + hit, loss + nats
            advance(len(labels))
        spreads = {name: WithinSpread(sums.frame(weighted=weighted, rcond=rcond)) for name, sums in moments.items()}
        for features, labels in _features(model, split):
            for name in wanted:
                spreads[name].add(features[name], labels)
            advance(len(labels))
    n = len(split)
    by_layer = {name: spread.fuzziness() for name, spread in spreads.items()}
    return LayerFuzziness(by_layer, n, len(np.unique(split.labels)), correct / n, loss / n)


def check_images(split: Split, classes: int) -> None:
    """Raises UsageError for a split whose fuzziness could not be measured, whatever the features."""
    if len(split) < classes:
        raise UsageError(f"{len(split)} images for {classes} classes; fuzziness needs one image per class at least")
    classes_seen = np.unique(split.labels)
    if len(classes_seen) < 2:
        raise UsageError(
            f"fuzziness compares classes, and all {len(split)} images are of class {classes_seen[0]}; use data with two or more"
        )


def _features(model: ViT, split: Split) -> Iterator[tuple[Features, NDArray[np.int64]]]:
    device = next(model.parameters()).device
    for images, labels in split.batches(_BATCH):
        yield _of_batch(model, torch.from_numpy(images).to(device)), np.asarray(labels, np.int64)


def _of_batch(model: ViT, images: Tensor) -> Features:
    seen: Features = {PIXELS: images.flatten(1).cpu().numpy()}

    def noting(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def note(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = _pooled(model, output).cpu().numpy()

        return note

    handles = [b.register_forward_hook(noting(f"block.{n}")) for n, b in enumerate(model.block)]
    try:
        with torch.inference_mode():
            seen[LOGITS] = model(images).cpu().numpy()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _pooled(model: ViT, tokens: Tensor) -> Tensor:
    """(B, N, D) -> (B, D): what the head would be given, had it been put here."""
    c = model.config
    if c.pooling == "cls":
        return tokens[:, 0]
    return tokens[:, 0 if c.pooling == "mean" else c.prefix_tokens :].mean(1)


def _scored(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[int, float]:
    """Correct images, and the sum of their cross-entropies in nats."""
    z = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # where logits are infinite, so is the loss, or it is not defined
        nats = logsumexp(z, axis=1) - z[np.arange(len(z)), labels]
    return int((z.argmax(axis=1) == labels).sum()), float(nats.sum())


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes: Sequence[tuple[nn.Module, bool]] = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _naming(layer: str) -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        raise UsageError(f"layer {layer}: {error}") from error
