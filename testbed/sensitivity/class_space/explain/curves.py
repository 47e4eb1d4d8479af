"""Perturbation curves: accuracy while image tokens are taken away in the order of their relevance.

most first    the most relevant tokens go first: the lower the curve, the better the explanation
least first   the least relevant go first: the higher, the better

A token is dropped after the position embedding, so the model runs on those that are left. The area under a curve is the
trapezoid rule over the share of tokens dropped, divided by the range: the mean accuracy along it. An image's own area is
a number from 0 to 1, and so areas and their differences have intervals over images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from testbed.analysis.shares import MeanEstimate, ShareTally
from testbed.core.arrays import Float64s
from testbed.data import Split
from testbed.models.vit import ViT
from testbed.sensitivity.class_space.explain.relevance import ExplanationMethod, explainers
from testbed.sensitivity.class_space.recorder import recorded
from testbed.sensitivity.class_space.stream import Advance, token_batches

DroppingOrder = Literal["most_first", "least_first"]
ExplainedClass = Literal["true", "predicted"]
ORDERS: tuple[DroppingOrder, ...] = ("most_first", "least_first")
DROPPED = tuple(round(0.1 * step, 1) for step in range(10))


@dataclass(frozen=True)
class PerturbationCurve:
    """Accuracy at each share of dropped tokens, the area under it, and by how much that beats a random order on the same
    images: lower for "most_first", higher for "least_first"; above 0 is better either way."""

    method: ExplanationMethod
    order: DroppingOrder
    dropped: tuple[float, ...]
    accuracy: tuple[MeanEstimate, ...]
    area: MeanEstimate
    better_than_random: MeanEstimate


def area_under_curve(values: Float64s, dropped: Sequence[float] = DROPPED) -> Float64s:
    """(..., levels) -> (...): the trapezoid rule over ``dropped``, divided by its range."""
    area = np.trapezoid(values, dropped, axis=-1) / (dropped[-1] - dropped[0])
    return np.asarray(area, np.float64)


def perturbation_curves(
    model: ViT,
    split: Split,
    *,
    explained: ExplainedClass = "true",
    seed: int = 0,
    confidence: float = 0.95,
    advance: Advance = lambda images: None,
) -> tuple[PerturbationCurve, ...]:
    """The two curves of every method. ``explained``: the class that relevance is asked for."""
    methods = explainers(seed)
    tallies = {(method, order): _CurveTally() for method in methods for order in ORDERS}
    for batch in token_batches(model, split):
        with recorded(model) as recorder, torch.no_grad():
            tokens = recorder.embed(batch.images)
            plain = recorder.classify(recorder.run(tokens))
        classes = batch.labels if explained == "true" else plain.argmax(-1)
        relevance = {method: explain(model, batch.images, classes) for method, explain in methods.items()}
        random: dict[DroppingOrder, Float64s] = {}
        for method in reversed(methods):  # the random order first: the others are held against it
            for order in ORDERS:
                hits = _hits(model, tokens, batch.labels, relevance[method], order)
                areas = area_under_curve(hits)
                random.setdefault(order, areas)
                tallies[method, order].add(hits, areas, areas - random[order])
        advance(len(batch))
    return tuple(tally.result(method, order, confidence) for (method, order), tally in tallies.items())


def tokens_left(relevance: Tensor, order: DroppingOrder, share: float) -> Tensor:
    """(B, left) the image tokens that are left when a share of them has been dropped, one at least, in ascending order.
    relevance: (B, T); of equal relevance the token that comes first goes first."""
    ranked = torch.sort(relevance, dim=-1, descending=order == "most_first", stable=True).indices
    dropped = min(round(share * relevance.shape[1]), relevance.shape[1] - 1)
    return ranked[:, dropped:].sort(-1).values


class _CurveTally:
    """Running sums of one curve."""

    def __init__(self) -> None:
        self.accuracy, self.area, self.difference = ShareTally(len(DROPPED)), ShareTally(), ShareTally()

    def add(self, hits: Float64s, areas: Float64s, difference: Float64s) -> None:
        self.accuracy.add(hits)
        self.area.add(areas)
        self.difference.add((difference + 1) / 2)

    def result(self, method: ExplanationMethod, order: DroppingOrder, confidence: float) -> PerturbationCurve:
        above = self.difference.estimate(confidence).scaled(2, -1)
        better = above if order == "least_first" else MeanEstimate(-above.value, -above.high, -above.low, above.images)
        accuracy = tuple(self.accuracy.estimates(confidence))
        return PerturbationCurve(method, order, DROPPED, accuracy, self.area.estimate(confidence), better)


def _hits(model: ViT, tokens: Tensor, labels: Tensor, relevance: Tensor, order: DroppingOrder) -> Float64s:
    """(B, levels) is the image still classified correctly?"""
    first = model.config.prefix_tokens
    hits = []
    with recorded(model) as recorder, torch.no_grad():
        for share in DROPPED:
            left = tokens_left(relevance, order, share) + first
            before = torch.arange(first, device=left.device).expand(len(left), first)
            kept = torch.cat([before, left], dim=1)
            chosen = tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[2]))
            logits = recorder.classify(recorder.run(chosen))
            hits.append((logits.argmax(-1) == labels).double())
    return torch.stack(hits, dim=1).cpu().numpy()
