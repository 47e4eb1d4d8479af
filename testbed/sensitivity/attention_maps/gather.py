"""What pictures are drawn of: the attention of chosen images, and the distances of every head over many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from testbed.core.arrays import Float32s
from testbed.core.errors import UsageError
from testbed.models.vit import ViT
from testbed.sensitivity.attention_maps.distance import HeadDistance, head_distances, summarise_distances
from testbed.sensitivity.class_space.recorder import BlockStates, StateRecorder, recorded
from testbed.sensitivity.rollout import Rollout, patch_relevance

BATCH = 32


@dataclass(frozen=True)
class BlockMaps:
    """One block's attention on one image. maps: (H, N, N), of differential attention the difference of ``first`` and
    ``mix`` times ``second``, (H, N, N) each, which are None otherwise."""

    block: int
    maps: Float32s
    first: Float32s | None = None
    second: Float32s | None = None
    mix: float | None = None

    @property
    def mean(self) -> Float32s:
        """(N, N) over the heads."""
        mean: Float32s = self.maps.mean(0)
        return mean


@dataclass(frozen=True)
class ImageAttention:
    """The attention of one image. blocks: those that attend, in their order; rollout: (grid, grid); logits: (K,)."""

    blocks: tuple[BlockMaps, ...]
    rollout: NDArray[np.float64]
    logits: Float32s

    @property
    def last(self) -> BlockMaps:
        return self.blocks[-1]


def check_attends(model: ViT) -> None:
    """Raises UsageError for a model whose blocks have all lost their attention."""
    if not any(model.config.heads):
        raise UsageError("no block of this model attends: its heads were pruned; name a model with attention")


def attention_of(model: ViT, image: NDArray[np.float32]) -> ImageAttention:
    """Run one image and keep its attention. image: (C, S, S), as the model takes it. Raises UsageError as `check_attends`."""
    with recorded(model) as recorder:
        return gathered_attention(recorder, image)


def gathered_attention(recorder: StateRecorder, image: NDArray[np.float32]) -> ImageAttention:
    """The same through a recorder whose model may be edited or faulty."""
    model = recorder.model
    check_attends(model)
    device = next(model.parameters()).device
    rollout, blocks = Rollout(), []
    with torch.inference_mode():
        tokens = recorder.embed(torch.from_numpy(image[None]).to(device))
        for states in recorder.blocks(tokens):
            if states.attention is not None:
                rollout.add(states.attention)
                blocks.append(_maps_of(states))
            tokens = states.residual_out
        logits = recorder.classify(tokens)[0].cpu().numpy()
        matrix = rollout.matrix(model.config.tokens, 1)
        relevance = patch_relevance(matrix, model.config)[0].cpu().numpy()
    return ImageAttention(tuple(blocks), relevance.reshape(model.config.grid, -1), logits)


def _maps_of(states: BlockStates) -> BlockMaps:
    assert states.attention is not None
    maps = states.attention[0].cpu().numpy()
    if states.mix is None or states.softmax_maps is None:
        return BlockMaps(states.index, maps)
    first, second = states.softmax_maps[0].chunk(2)
    return BlockMaps(states.index, maps, first.cpu().numpy(), second.cpu().numpy(), float(states.mix))


def measure_distances(model: ViT, batches: Iterator[NDArray[np.float32]]) -> list[HeadDistance]:
    """Attention distances of every head over the images of all batches, (b, C, S, S) each; memory holds one batch."""
    check_attends(model)
    device = next(model.parameters()).device
    of_block: dict[int, list[NDArray[np.float64]]] = {}
    with recorded(model) as recorder, torch.inference_mode():
        for batch in batches:
            for states in recorder.blocks(recorder.embed(torch.from_numpy(batch).to(device))):
                if states.attention is not None:
                    distances = head_distances(states.attention, model.config).cpu().numpy()
                    of_block.setdefault(states.index, []).append(distances)
    return [record for block, parts in of_block.items() for record in summarise_distances(block, np.concatenate(parts))]
