"""Attention and MLP as key-value memories: what their values stand for, and whether the keys that fire agree.

A branch's output is a sum of value vectors, the columns of its last weight (MLP ``fc2``, attention ``proj``), weighed by
key coefficients: the MLP's hidden units after the activation, attention's context (Geva et al. 2021; Vilas et al.,
NeurIPS 2023).

top classes              of each memory, and the top memories of each class, by the cosine of value and class embedding
class-value agreement    per class, the largest cosine over a layer's memories; one-sided Wilcoxon signed-rank test over the
                         classes against the same of random weights, and Holm-adjusted over all layers
key-value agreement      share of tokens whose 5 largest key coefficients meet the 5 memories whose values have the
                         largest products with the true class's embedding; beside it the same with another class drawn
                         at random for each image, and what any 5 memories would meet by chance

Shapes: K classes, M memories of a layer, D width, B images, N tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import gammaln
from scipy.stats import wilcoxon
from torch import Tensor

from testbed.analysis.multiplicity import holm_adjusted
from testbed.analysis.shares import MeanEstimate, ShareTally
from testbed.core.arrays import Float64s, Int64s
from testbed.models.vit import Block, ViT
from testbed.sensitivity.class_space.identifiability import Branch
from testbed.sensitivity.class_space.projection import ClassProjection
from testbed.sensitivity.class_space.recorder import BlockStates
from testbed.sensitivity.class_space.stream import TokenBatch, TokenKind

TOP = 5


@dataclass(frozen=True)
class ClassValueAgreement:
    """One layer's agreement: mean over the classes here and with random weights, the test's p-value, and what is left
    of it after Holm's correction over the model's layers. ``per_class``: (K,) largest cosines."""

    block: int
    branch: Branch
    memories: int
    per_class: Float64s
    mean: float
    random_mean: float
    p_value: float
    p_holm: float


@dataclass(frozen=True)
class TopMemories:
    """The ``TOP`` memories (or as many as there are) closest to each class, (K, top), with their cosines; and each
    memory's closest class, (M,)."""

    block: int
    branch: Branch
    memories: Int64s
    cosines: Float64s
    class_of_memory: Int64s


@dataclass(frozen=True)
class KeyValueAgreement:
    """Share of tokens whose largest keys meet the true class's memories; the same with a random other class's, and of
    any ``TOP`` memories by chance."""

    block: int
    branch: Branch
    tokens: TokenKind
    agreement: MeanEstimate
    other_class: MeanEstimate
    chance: float


@dataclass(frozen=True)
class Memories:
    """All layers' memories."""

    class_value: tuple[ClassValueAgreement, ...]
    top: tuple[TopMemories, ...]
    key_value: tuple[KeyValueAgreement, ...]


def branch_values(model: ViT) -> Iterator[tuple[int, Branch, Tensor]]:
    """(block, branch, values (D, M)) of every branch that the model has."""
    for index, block in enumerate(model.block):
        assert isinstance(block, Block)
        if block.has_attention:
            yield index, "attention", block.attn.output_weight.detach()
        if block.has_mlp:
            yield index, "mlp", block.mlp.output_weight.detach()


def class_value_cosines(embeddings: Tensor, values: Tensor) -> Float64s:
    """(K, M) cosines of class embeddings (K, D) and values (D, M); 0 for a vector of zeros."""
    unit_classes = torch.nn.functional.normalize(embeddings.double(), dim=1)
    unit_values = torch.nn.functional.normalize(values.double(), dim=0)
    cosines: Float64s = (unit_classes @ unit_values).cpu().numpy()
    return cosines


def class_value_agreement(model: ViT, random_model: ViT) -> tuple[ClassValueAgreement, ...]:
    """Agreement of every layer. ``random_model``: the same architecture with random weights."""
    layers = []
    for (block, branch, values), (_, _, random_values) in zip(
        branch_values(model), branch_values(random_model), strict=True
    ):
        own = _largest(model, values)
        random = _largest(random_model, random_values)
        p_value = float(wilcoxon(own, random, alternative="greater").pvalue) if (own != random).any() else 1.0
        layers.append((block, branch, values.shape[1], own, float(own.mean()), float(random.mean()), p_value))
    adjusted = holm_adjusted([layer[-1] for layer in layers])
    return tuple(ClassValueAgreement(*layer, float(p)) for layer, p in zip(layers, adjusted, strict=True))


def top_memories(model: ViT) -> tuple[TopMemories, ...]:
    """The closest memories of each class and the closest class of each memory, of every layer."""
    embeddings = ClassProjection.of(model).embeddings
    tops = []
    for block, branch, values in branch_values(model):
        cosines = class_value_cosines(embeddings, values)
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :TOP]
        best = np.take_along_axis(cosines, order, axis=1)
        tops.append(TopMemories(block, branch, order.astype(np.int64), best, cosines.argmax(axis=0).astype(np.int64)))
    return tuple(tops)


def chance_agreement(memories: int, top: int = TOP) -> float:
    """The chance that ``top`` of ``memories`` drawn at random meet ``top`` given ones."""
    if memories < 2 * top:
        return 1.0
    log_none = 2 * gammaln(memories - top + 1) - gammaln(memories - 2 * top + 1) - gammaln(memories + 1)
    return float(-np.expm1(log_none))


class KeyValueObserver:
    """Sums up key-value agreement while a pass runs. ``seed``: of the other classes."""

    def __init__(self, model: ViT, seed: int = 0) -> None:
        embeddings = ClassProjection.of(model).embeddings
        self._classes = len(embeddings)
        self._aligned: dict[tuple[int, Branch], Tensor] = {}  # (K, M) bool: is the memory one of the class's top?
        for block, branch, values in branch_values(model):
            products = embeddings @ values
            chosen = products.topk(min(TOP, products.shape[1]), dim=1).indices
            self._aligned[block, branch] = torch.zeros_like(products, dtype=torch.bool).scatter_(1, chosen, True)
        self._kinds: tuple[TokenKind, ...] = ()
        self._tallies: dict[tuple[int, Branch], ShareTally] = {}
        self._generator = torch.Generator().manual_seed(seed)
        self._others: Tensor | None = None

    def see(self, states: BlockStates, batch: TokenBatch) -> None:
        self._kinds = tuple(batch.kinds)
        if self._others is None:
            steps = torch.randint(1, self._classes, (len(batch),), generator=self._generator)
            self._others = (batch.labels + steps.to(batch.labels.device)) % self._classes
        keys: dict[Branch, Tensor | None] = {"attention": states.context, "mlp": states.mlp_hidden}
        for branch, coefficients in keys.items():
            if coefficients is None:
                continue
            largest = coefficients.topk(min(TOP, coefficients.shape[-1]), dim=-1).indices  # (B, N, top)
            aligned = self._aligned[states.index, branch]
            agreed = [batch.shares(_meets(aligned[labels], largest)) for labels in (batch.labels, self._others)]
            tally = self._tallies.setdefault((states.index, branch), ShareTally(len(self._kinds), 2))
            tally.add(np.stack(agreed, axis=-1))

    def finish(self, logits: Tensor, batch: TokenBatch) -> None:
        self._others = None

    def result(self, confidence: float = 0.95) -> tuple[KeyValueAgreement, ...]:
        rows = []
        for (block, branch), tally in self._tallies.items():
            estimates = iter(tally.estimates(confidence))
            chance = chance_agreement(self._aligned[block, branch].shape[1])
            for kind in self._kinds:
                rows.append(KeyValueAgreement(block, branch, kind, next(estimates), next(estimates), chance))
        return tuple(rows)


def _meets(aligned: Tensor, largest: Tensor) -> Tensor:
    """(B, N): is any of the largest keys (B, N, top) aligned (B, M)?"""
    return aligned[:, None, :].expand(-1, largest.shape[1], -1).gather(-1, largest).any(-1)


def _largest(model: ViT, values: Tensor) -> Float64s:
    """(K,) each class's largest cosine."""
    largest: Float64s = class_value_cosines(ClassProjection.of(model).embeddings, values).max(axis=1)
    return largest
