"""Attention distance: how far, in pixels, a head looks (Dosovitskiy et al., ICLR 2021; `attention_maps.distance`).

The mean over images of the head's distance; a block's is the mean over its heads. Heads that look farthest, which gather what
the whole image shows, come first. Neurons look nowhere and have none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from testbed.core.errors import UsageError
from testbed.models.vit import ViT
from testbed.sensitivity.attention_maps.distance import head_distances
from testbed.sensitivity.circuits.components import Component
from testbed.sensitivity.class_space.recorder import recorded
from testbed.sensitivity.rank.images import ScoredImages
from testbed.sensitivity.rank.methods.contributions import named_scores
from testbed.sensitivity.rank.settings import ScoreSettings


def attention_distance_scores(
    model: ViT, images: ScoredImages, parts: Sequence[Component], _settings: ScoreSettings
) -> dict[str, float]:
    """Component -> mean attention distance in pixels. Raises UsageError for a block that has no attention."""
    if headless := next((part.name for part in parts if not part.heads), None):
        raise UsageError(f"{headless} has no attention, so no attention distance; rank the heads, or by another score")
    analysis = images.analysis
    totals = [torch.zeros(heads, dtype=torch.float64) for heads in model.config.heads]
    for rows in analysis.batches():
        with recorded(model) as recorder, torch.no_grad():
            for states in recorder.blocks(recorder.embed(analysis.images[rows])):
                if states.attention is not None:
                    totals[states.index] += head_distances(states.attention, model.config).sum(0)
    distances = [totals[part.block][list(part.heads)].mean() / len(analysis) for part in parts]
    return named_scores("attention-distance", parts, torch.stack(distances))
