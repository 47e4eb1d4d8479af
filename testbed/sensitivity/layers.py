"""Fuzziness of every layer of a model: raw pixels, the pooled token after each block, logits.

The vector of the published analysis: normalised pixels, the CLS token after every block, logits. A model without CLS
token, or one that pools by the mean, is looked at through the mean of the tokens that its head reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from testbed.core.errors import UsageError
from testbed.data import Split
from testbed.models.vit import ViT
from testbed.sensitivity.fuzziness import RCOND, ClassMoments, WithinSpread

PIXELS, LOGITS = "pixels", "logits"
_BATCH = 64


def layer_names(model: ViT) -> list[str]:
    """In the order of the forward pass."""
    return [PIXELS, *(f"block.{number}" for number in range(model.config.depth)), LOGITS]


def layer_fuzziness(
    model: ViT, split: Split, *, layers: Iterable[str] | None = None, weighted: bool = False, rcond: float = RCOND
) -> dict[str, float]:
    """Layer -> fuzziness, all layers of `layer_names` unless some are named. Evaluation mode, no gradients; the model's mode
    is put back. Two passes over the images: nothing but class means is kept.

    Raises UsageError as `fuzziness` does, and for a layer that the model does not have.
    """
    known = layer_names(model)
    wanted = known if layers is None else list(layers)
    if unknown := [name for name in wanted if name not in known]:
        raise UsageError(f"the model has no layer {unknown[0]!r}; layers: {', '.join(known)}")
    was_training = model.training
    model.eval()
    try:
        moments = {name: ClassMoments() for name in wanted}
        for features, labels in _features(model, split):
            for name in wanted:
                moments[name].add(features[name], labels)
        spreads = {name: WithinSpread(found.frame(weighted=weighted, rcond=rcond)) for name, found in moments.items()}
        for features, labels in _features(model, split):
            for name in wanted:
                spreads[name].add(features[name], labels)
    finally:
        model.train(was_training)
    return {name: spread.fuzziness() for name, spread in spreads.items()}


def _features(model: ViT, split: Split) -> Iterable[tuple[dict[str, NDArray], NDArray[np.int64]]]:
    device = next(model.parameters()).device
    for images, labels in split.batches(_BATCH):
        yield _of_batch(model, torch.from_numpy(images).to(device)), np.asarray(labels, np.int64)


def _of_batch(model: ViT, images: Tensor) -> dict[str, NDArray]:
    seen: dict[str, NDArray] = {PIXELS: images.flatten(1).cpu().numpy()}

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
    return (tokens[:, 1:] if c.pooling == "mean_patches" and c.cls_token else tokens).mean(1)
