"""Identifiability gain: by how much a component lifts the true class in class space.

    score = mean over images and tokens of  r(stream with the component's output) - r(the stream without it)

r = 1 - rank / K is the class identifiability of the true class among K in the projection of a token's stream by the model's
own final norm and head (Vilas et al., NeurIPS 2023; `class_space.projection`). The stream is that behind the component: a
block's output, against its input; for a head the stream behind attention, for a neuron that behind the MLP, less what the
component adds (`contributions`; in a post-norm block the norm is applied to what is left). Every token counts, CLS too.

Signed, in [-1 + 1 / K, 1 - 1 / K]. The higher, the more it matters; below 0 where the component hides the class.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from testbed.models.vit import ViT
from testbed.sensitivity.circuits.components import Component
from testbed.sensitivity.class_space.projection import ClassProjection, class_identifiability, true_ranks
from testbed.sensitivity.class_space.recorder import recorded
from testbed.sensitivity.rank.images import ScoredImages
from testbed.sensitivity.rank.methods.contributions import belongs, branches, columns_of, named_scores
from testbed.sensitivity.rank.settings import ScoreSettings


def identifiability_scores(
    model: ViT, images: ScoredImages, parts: Sequence[Component], _settings: ScoreSettings
) -> dict[str, float]:
    """Component -> gain of class identifiability. Raises UsageError as `ClassProjection.of`."""
    projection = ClassProjection.of(model)
    analysis = images.analysis
    totals = torch.zeros(len(parts), dtype=torch.float64)
    for rows in analysis.batches():
        labels = analysis.labels[rows]
        with recorded(model) as recorder, torch.no_grad():
            for states in recorder.blocks(recorder.embed(analysis.images[rows])):
                for number, part in enumerate(parts):
                    if part.kind == "block" and part.block == states.index:
                        after = _summed(projection, states.residual_out, labels)
                        totals[number] += after - _summed(projection, states.residual_in, labels)
                for branch in branches(model, states):
                    total = branch.stream + branch.output
                    whole = _summed(projection, branch.behind(total), labels)
                    for number, part in enumerate(parts):
                        if part.kind != "block" and belongs(part, branch):
                            left = branch.behind(total - branch.share(columns_of(model, part)))
                            totals[number] += whole - _summed(projection, left, labels)
    return named_scores("identifiability", parts, totals / (len(analysis) * model.config.tokens))


def _summed(projection: ClassProjection, states: Tensor, labels: Tensor) -> Tensor:
    """Scalar: class identifiability of states (B, N, D), summed over images and tokens."""
    return class_identifiability(true_ranks(projection(states), labels), projection.classes).sum()
