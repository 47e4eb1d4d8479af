"""Gradient times value: to first order, by how much the loss of an image would change without the component.

    score = mean over images of | sum over tokens and channels of z dL/dz |

with z what the component adds to the residual stream (`contributions`) and L the cross-entropy of the true class (Michel et
al., "Are Sixteen Heads Really Better than One?", NeurIPS 2019, for heads; Molchanov et al., CVPR 2019, for neurons). The
sizes are averaged, so an image whose loss would rise does not cancel one whose loss would fall. The higher, the more it
matters; a component that adds nothing has 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from testbed.models.vit import ViT
from testbed.sensitivity.circuits.analysis_set import AnalysisSet
from testbed.sensitivity.circuits.components import Component
from testbed.sensitivity.class_space.recorder import recorded
from testbed.sensitivity.rank.images import ScoredImages
from testbed.sensitivity.rank.methods.contributions import gradient_products, graph_batches, named_scores
from testbed.sensitivity.rank.settings import ScoreSettings


def gradient_scores(
    model: ViT, images: ScoredImages, parts: Sequence[Component], _settings: ScoreSettings
) -> dict[str, float]:
    """Component -> mean size of gradient times value, in nats. Raises UsageError for values that are no numbers."""
    return named_scores("gradient", parts, loss_changes(model, images.analysis, parts).abs().mean(0))


def loss_changes(model: ViT, images: AnalysisSet, parts: Sequence[Component]) -> Tensor:
    """(n, P) float64, signed: gradient times value of each image's loss, in nats; above 0 where the component raises it."""
    changes = []
    for rows in graph_batches(model, images):
        labels = images.labels[rows]

        def loss(logits: Tensor, labels: Tensor = labels) -> Tensor:
            return nn.functional.cross_entropy(logits, labels, reduction="sum")

        with recorded(model) as recorder:
            changes.append(gradient_products(recorder, images.images[rows], parts, loss))
    return torch.cat(changes)
