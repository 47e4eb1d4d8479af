"""Magnitude: how large what a component adds is, beside the residual stream that it is added to.

    score = mean over images and tokens of || z || / || x ||            (Euclidean norms over the channels)

with z what the component adds (`contributions`) and x the stream just before it: a head's is the stream before attention, a
neuron's the stream before the MLP. A block adds twice, so its score is the sum of both branches' ratios. The higher, the more
it matters; a component that adds nothing has 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from testbed.models.vit import ViT
from testbed.sensitivity.circuits.components import Component
from testbed.sensitivity.class_space.recorder import recorded
from testbed.sensitivity.rank.images import ScoredImages
from testbed.sensitivity.rank.methods.contributions import belongs, branches, columns_of, named_scores
from testbed.sensitivity.rank.settings import ScoreSettings

_SMALLEST = 1e-30  # of a stream's norm, so that 0 beside 0 is 0


def magnitude_scores(
    model: ViT, images: ScoredImages, parts: Sequence[Component], _settings: ScoreSettings
) -> dict[str, float]:
    """Component -> mean ratio of norms. Raises UsageError for values that are no numbers."""
    analysis = images.analysis
    totals = torch.zeros(len(parts), dtype=torch.float64)
    for rows in analysis.batches():
        with recorded(model) as recorder, torch.no_grad():
            for states in recorder.blocks(recorder.embed(analysis.images[rows])):
                for branch in branches(model, states):
                    stream = branch.stream.double().norm(dim=-1).clamp(min=_SMALLEST)
                    for number, part in enumerate(parts):
                        if belongs(part, branch):
                            is_block = part.kind == "block"
                            added = branch.output if is_block else branch.share(columns_of(model, part))
                            totals[number] += _summed_ratio(added, stream)
    return named_scores("magnitude", parts, totals / (len(analysis) * model.config.tokens))


def _summed_ratio(added: Tensor, stream: Tensor) -> Tensor:
    """Scalar: sum over images and tokens. added: (B, N, D); stream: (B, N) norms."""
    return (added.double().norm(dim=-1) / stream).sum()
