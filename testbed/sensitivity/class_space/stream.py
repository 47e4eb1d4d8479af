"""One pass over the images, batch by batch and block by block, that any number of observers watch.

Memory is that of a batch's block and of the observers' running sums, whatever the number of images.

Shapes: B images, N tokens, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from testbed.core.arrays import Float64s
from testbed.data import Split
from testbed.models.config import ViTConfig
from testbed.models.vit import ViT
from testbed.sensitivity.class_space.masks import PatchMasks
from testbed.sensitivity.class_space.recorder import BlockStates, Edit, recorded

TokenKind = Literal["cls", "image", "class", "context"]
"""CLS, all image tokens, and by a mask the image tokens on the labelled object and beside it."""

Advance = Callable[[int], None]
_BATCH_BYTES = 1 << 26  # of the largest tensor of a batch; about eight such are alive at the same time
LARGEST_BATCH = 64


@dataclass(frozen=True)
class TokenBatch:
    """Images (B, C, S, S) on the model's device, their labels (B,), and which tokens are of which kind: (B, N) each."""

    images: Tensor
    labels: Tensor
    kinds: Mapping[TokenKind, Tensor]

    def __len__(self) -> int:
        return len(self.labels)

    def shares(self, values: Tensor) -> Float64s:
        """(B, kinds): each image's mean of values (B, N) over the tokens of a kind; NaN where it has none."""
        weights = torch.stack(list(self.kinds.values()), dim=1).to(torch.float64)  # (B, kinds, N)
        sums = (weights @ values.to(torch.float64)[..., None]).squeeze(-1)
        return (sums / weights.sum(-1)).cpu().numpy()  # 0 / 0 is NaN


class BlockObserver(Protocol):
    """Watches a pass: every block of a batch in turn, then the batch's logits (B, K)."""

    def see(self, states: BlockStates, batch: TokenBatch) -> None: ...

    def finish(self, logits: Tensor, batch: TokenBatch) -> None: ...


class Perturbation(Protocol):
    """A change of the forward pass. ``kept``: (B, N) the tokens that are left, None where all are."""

    def edits(self, model: ViT, batch: TokenBatch) -> Mapping[str, Edit]: ...

    def kept(self, batch: TokenBatch) -> Tensor | None: ...


def batch_size(config: ViTConfig) -> int:
    """Images at a time, such that the largest tensor of a batch stays within a fixed size."""
    widest = max(config.width, config.classes, *config.mlp, *(heads * config.tokens for heads in config.heads), 1)
    return int(np.clip(_BATCH_BYTES // (4 * config.tokens * widest), 1, LARGEST_BATCH))


def token_batches(model: ViT, split: Split, masks: PatchMasks | None = None) -> Iterator[TokenBatch]:
    """The images of ``split`` in order. ``masks``: adds the kinds "class" and "context"."""
    config, device = model.config, next(model.parameters()).device
    size = batch_size(config)
    for start in range(0, len(split), size):
        positions = range(start, min(start + size, len(split)))
        images = torch.from_numpy(split.batch(list(positions))).to(device)
        labels = torch.from_numpy(np.array(split.labels[positions.start : positions.stop], np.int64)).to(device)
        kinds = token_kinds(config, len(labels), device)
        if masks is not None:
            on_object = torch.from_numpy(np.stack([masks.patches(split, position) for position in positions]))
            kinds |= _mask_kinds(kinds["image"], on_object.to(device))
        yield TokenBatch(images, labels, kinds)


def token_kinds(config: ViTConfig, images: int, device: torch.device) -> dict[TokenKind, Tensor]:
    """Which of the N tokens are CLS (where there is one) and which are of the image: (images, N) each."""
    cls = torch.zeros(images, config.tokens, dtype=torch.bool, device=device)
    if not config.cls_token:
        cls[:, : config.prefix_tokens] = True
        return {"image": ~cls}
    cls[:, 0] = True
    others = cls.clone()
    others[:, : config.prefix_tokens] = True
    return {"cls": cls, "image": ~others}


def _mask_kinds(image: Tensor, on_object: Tensor) -> dict[TokenKind, Tensor]:
    """Add what masks tell of image tokens. on_object: (B, patches)."""
    patches = torch.zeros_like(image)
    patches[:, image.shape[1] - on_object.shape[1] :] = on_object
    return {"class": patches, "context": image & ~patches}


def observe(
    model: ViT,
    split: Split,
    observers: Sequence[BlockObserver],
    *,
    perturbation: Perturbation | None = None,
    masks: PatchMasks | None = None,
    advance: Advance = lambda images: None,
) -> None:
    """Run ``model`` over ``split`` and show every block to every observer. Evaluation mode, no gradients.

    ``perturbation``: changes the pass; ``advance`` is told of images done.
    """
    for batch in token_batches(model, split, masks):
        edits = {} if perturbation is None else perturbation.edits(model, batch)
        kept = None if perturbation is None else perturbation.kept(batch)
        with recorded(model, edits) as recorder, torch.no_grad():
            tokens = recorder.embed(batch.images)
            for states in recorder.blocks(tokens):
                for observer in observers:
                    observer.see(states, batch)
                tokens = states.residual_out
                del states  # else this block would be held while the next one runs
            logits = recorder.classify(tokens) if kept is None else classify_kept(model, tokens, kept)
        for observer in observers:
            observer.finish(logits, batch)
        advance(len(batch))


def classify_kept(model: ViT, tokens: Tensor, kept: Tensor) -> Tensor:
    """(B, N, D) -> (B, K): as ``model.classified``, with the mean over the tokens that are left. kept: (B, N)."""
    config = model.config
    if config.pooling == "cls":
        return model.classified(tokens)
    if config.final_norm == "tokens":
        tokens = model.norm(tokens)
    if config.pooling == "mean_patches":
        tokens, kept = tokens[:, config.prefix_tokens :], kept[:, config.prefix_tokens :]
    weights = kept.to(tokens.dtype)[..., None]
    pooled = (tokens * weights).sum(1) / weights.sum(1)
    if config.final_norm == "pooled":
        pooled = model.norm(pooled)
    logits: Tensor = model.head(pooled)
    return logits
