"""Class identifiability of every hidden state, and what attention and MLP add to it, over any number of images.

For the projection p of a token's state (`projection`), with the true class at rank 0 to K - 1 among K classes:

class identifiability      1 - rank / K, mean over tokens
identifiability rate       share of tokens at rank 0; also of images with at least one such token
class-similarity change    share of tokens whose true-class logit is higher in a branch's output than in the block's input
residual match             share of tokens whose top-1 in the block's output is that of its input, of attention's, of the
                           MLP's output; and of none of the three (Vilas et al., NeurIPS 2023, and their public code, whose
                           "none" looked at attention twice)

CLS and image tokens are apart in each. Chance is (K + 1) / 2K for the mean and 1 / K for the rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from testbed.analysis.shares import MeanEstimate, ShareTally
from testbed.sensitivity.class_space.projection import (
    ClassProjection,
    class_identifiability,
    true_logits,
    true_ranks,
)
from testbed.sensitivity.class_space.recorder import BlockStates
from testbed.sensitivity.class_space.stream import TokenBatch, TokenKind

StateName = Literal["embedding", "block", "attention", "mlp"]
Branch = Literal["attention", "mlp"]
MatchSource = Literal["previous", "attention", "mlp", "none"]
Key = TypeVar("Key")


@dataclass(frozen=True)
class StateIdentifiability:
    """How well the true class is identified in one state of one block (the embedding counts as block 0's input)."""

    block: int
    state: StateName
    tokens: TokenKind
    identifiability: MeanEstimate
    rate: MeanEstimate
    images_with_one: MeanEstimate


@dataclass(frozen=True)
class SimilarityChange:
    """Share of tokens whose true-class logit rises from the block's input to a branch's output."""

    block: int
    branch: Branch
    tokens: TokenKind
    rises: MeanEstimate


@dataclass(frozen=True)
class ResidualMatch:
    """Share of tokens whose top-1 in the block's output is that of ``source``."""

    block: int
    source: MatchSource
    tokens: TokenKind
    matches: MeanEstimate


@dataclass(frozen=True)
class Identifiability:
    """All of it, of a model of ``classes`` classes."""

    classes: int
    accuracy: MeanEstimate
    states: tuple[StateIdentifiability, ...]
    changes: tuple[SimilarityChange, ...]
    matches: tuple[ResidualMatch, ...]

    @property
    def chance(self) -> tuple[float, float]:
        """Mean identifiability and rate of states that know nothing."""
        return (self.classes + 1) / (2 * self.classes), 1 / self.classes

    def state(self, block: int, state: StateName, tokens: TokenKind) -> StateIdentifiability:
        """The only such state. Raises KeyError where it was not measured."""
        for entry in self.states:
            if (entry.block, entry.state, entry.tokens) == (block, state, tokens):
                return entry
        raise KeyError((block, state, tokens))


class IdentifiabilityObserver:
    """Sums up all measures while a pass runs; ``result`` gives them.

    ``only_block``: look at this block's output alone, for perturbed passes of which the end counts. ``kept_only`` leaves
    out tokens that a perturbation dropped.
    """

    def __init__(self, projection: ClassProjection, only_block: int | None = None) -> None:
        self.projection, self.only_block = projection, only_block
        self._kinds: tuple[TokenKind, ...] = ()
        self._states: dict[tuple[int, StateName], ShareTally] = {}
        self._changes: dict[tuple[int, Branch], ShareTally] = {}
        self._matches: dict[tuple[int, MatchSource], ShareTally] = {}
        self._accuracy = ShareTally()

    def see(self, states: BlockStates, batch: TokenBatch) -> None:
        self._kinds = tuple(batch.kinds)
        if self.only_block is not None:
            if states.index == self.only_block:
                self._add_state(states.index, "block", self.projection(states.residual_out), batch)
            return
        before = self.projection(states.residual_in)
        if states.index == 0:
            self._add_state(0, "embedding", before, batch)
        after = self.projection(states.residual_out)
        self._add_state(states.index, "block", after, batch)
        own_before, top_after = true_logits(before, batch.labels), after.argmax(-1)
        same: dict[MatchSource, Tensor] = {"previous": before.argmax(-1) == top_after}
        del before, after
        outputs: dict[Branch, Tensor | None] = {"attention": states.attention_out, "mlp": states.mlp_out}
        for branch, output in outputs.items():
            if output is None:
                continue
            logits = self.projection(output)
            self._add_state(states.index, branch, logits, batch)
            rises = true_logits(logits, batch.labels) > own_before
            self._tally(self._changes, (states.index, branch)).add(batch.shares(rises))
            same[branch] = logits.argmax(-1) == top_after
        same["none"] = ~torch.stack(list(same.values())).any(0)
        for source, match in same.items():
            self._tally(self._matches, (states.index, source)).add(batch.shares(match))

    def finish(self, logits: Tensor, batch: TokenBatch) -> None:
        self._accuracy.add((logits.argmax(-1) == batch.labels).cpu().numpy())

    def result(self, confidence: float = 0.95) -> Identifiability:
        states = []
        for (block, state), tally in self._states.items():
            estimates = iter(tally.estimates(confidence))
            for kind in self._kinds:
                states.append(StateIdentifiability(block, state, kind, *(next(estimates) for _ in range(3))))
        changes = [
            SimilarityChange(block, branch, kind, estimate)
            for (block, branch), tally in self._changes.items()
            for kind, estimate in zip(self._kinds, tally.estimates(confidence), strict=True)
        ]
        matches = [
            ResidualMatch(block, source, kind, estimate)
            for (block, source), tally in self._matches.items()
            for kind, estimate in zip(self._kinds, tally.estimates(confidence), strict=True)
        ]
        accuracy = self._accuracy.estimate(confidence)
        return Identifiability(self.projection.classes, accuracy, tuple(states), tuple(changes), tuple(matches))

    def _add_state(self, block: int, state: StateName, logits: Tensor, batch: TokenBatch) -> None:
        ranks = true_ranks(logits, batch.labels)
        first = batch.shares(ranks == 0)
        mean = batch.shares(class_identifiability(ranks, self.projection.classes))
        some = np.where(np.isnan(first), np.nan, first > 0)
        tally = self._states.setdefault((block, state), ShareTally(len(self._kinds), 3))
        tally.add(np.stack([mean, first, some], axis=-1))

    def _tally(self, tallies: dict[Key, ShareTally], key: Key) -> ShareTally:
        return tallies.setdefault(key, ShareTally(len(self._kinds)))
