"""AttnLRP: how much of the true class's logit passes through the component (Achtibat et al., ICML 2024).

    score = mean over images of | relevance of what the component adds to the residual stream |

Relevance is propagated back from the true class's logit by the rules of the explanation of that name
(`class_space.explain.attnlrp`); where the stream is a sum, each summand's part is its value times the propagated gradient,
summed over tokens. Supporting and opposing the class count alike. The higher, the more it matters; a component that adds
nothing has 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from testbed.models.vit import ViT
from testbed.sensitivity.circuits.analysis_set import AnalysisSet
from testbed.sensitivity.circuits.components import Component
from testbed.sensitivity.class_space.explain.attnlrp import propagated_relevance
from testbed.sensitivity.rank.images import ScoredImages
from testbed.sensitivity.rank.methods.contributions import gradient_products, graph_batches, named_scores
from testbed.sensitivity.rank.settings import ScoreSettings


def attnlrp_scores(
    model: ViT, images: ScoredImages, parts: Sequence[Component], _settings: ScoreSettings
) -> dict[str, float]:
    """Component -> mean size of its relevance, in logits. Raises UsageError for values that are no numbers."""
    return named_scores("attnlrp", parts, component_relevance(model, images.analysis, parts).abs().mean(0))


def component_relevance(model: ViT, images: AnalysisSet, parts: Sequence[Component]) -> Tensor:
    """(n, P) float64, signed: each component's relevance for the true class's logit, image by image."""
    relevance = []
    for rows in graph_batches(model, images):
        labels = images.labels[rows]

        def true_logit(logits: Tensor, labels: Tensor = labels) -> Tensor:
            return logits.gather(1, labels[:, None]).sum()

        with propagated_relevance(model) as recorder:
            relevance.append(gradient_products(recorder, images.images[rows], parts, true_logit))
    return torch.cat(relevance)
