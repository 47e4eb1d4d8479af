"""What class information rests on: attention cut between tokens, and tokens taken away.

self_only      in every block, each image token attends to itself alone; the CLS row is untouched
no_cls         in every block, image tokens do not read CLS: its column is zeroed, without renormalisation
no_context     tokens beside the labelled object are dropped after the position embedding
no_class       tokens on the labelled object are dropped

(Vilas et al., NeurIPS 2023.) A dropped token is kept out of every softmax by a score of minus infinity, which gives the
rest the values that they would have without it; where tokens are pooled by the mean, it has no part in it.

Shapes: B images, H heads, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from testbed.analysis.shares import MeanEstimate, ShareTally
from testbed.core.arrays import Float64s
from testbed.core.errors import UsageError
from testbed.data import Split
from testbed.models.vit import ViT
from testbed.sensitivity.class_space.identifiability import IdentifiabilityObserver, StateIdentifiability
from testbed.sensitivity.class_space.masks import PatchMasks
from testbed.sensitivity.class_space.projection import ClassProjection
from testbed.sensitivity.class_space.recorder import BlockStates, Edit
from testbed.sensitivity.class_space.stream import Advance, Perturbation, TokenBatch, TokenKind, observe

PerturbationName = Literal["none", "self_only", "no_cls", "no_context", "no_class"]


@dataclass(frozen=True)
class PerturbationEffect:
    """Accuracy under a perturbation, its change from the unperturbed model on the same images (paired), and what is
    left of the last block's identifiability. Images of which all tokens are dropped do not count."""

    name: PerturbationName
    accuracy: MeanEstimate
    accuracy_change: MeanEstimate
    last_block: tuple[StateIdentifiability, ...]


class NoPerturbation:
    """The model as it is."""

    def edits(self, model: ViT, batch: TokenBatch) -> Mapping[str, Edit]:
        return {}

    def kept(self, batch: TokenBatch) -> Tensor | None:
        return None


class SelfOnly(NoPerturbation):
    """Image tokens attend to themselves alone. Of differential attention the first map is, and the second is zero."""

    def edits(self, model: ViT, batch: TokenBatch) -> Mapping[str, Edit]:
        queries = model.config.prefix_tokens  # the first row that is changed

        def cut(maps: Tensor) -> Tensor:
            identity = torch.eye(maps.shape[-1], device=maps.device, dtype=maps.dtype)
            changed = maps.clone()
            changed[..., queries:, :] = identity[queries:]
            if model.config.attention == "differential":
                changed[:, maps.shape[1] // 2 :, queries:, :] = 0
            return changed

        return _in_every_block(model, "softmax", cut)


class NoCls(NoPerturbation):
    """Image tokens do not read CLS."""

    def edits(self, model: ViT, batch: TokenBatch) -> Mapping[str, Edit]:
        def cut(maps: Tensor) -> Tensor:
            changed = maps.clone()
            changed[..., 1:, 0] = 0
            return changed

        return _in_every_block(model, "softmax", cut)


@dataclass(frozen=True)
class DropTokens(NoPerturbation):
    """Tokens of a kind are taken away after the position embedding."""

    kind: TokenKind

    def edits(self, model: ViT, batch: TokenBatch) -> Mapping[str, Edit]:
        dropped = batch.kinds[self.kind]

        def mask(scores: Tensor) -> Tensor:
            # an image whose tokens all go would have no softmax at all: it is left whole, and not counted
            everything = dropped.all(-1, keepdim=True)
            return scores.masked_fill((dropped & ~everything)[:, None, None, :], float("-inf"))

        return _in_every_block(model, "scores", mask)

    def kept(self, batch: TokenBatch) -> Tensor:
        return ~batch.kinds[self.kind]


def perturbations(model: ViT, with_masks: bool) -> dict[PerturbationName, Perturbation]:
    """Those that this model has tokens for; "none" first. Without CLS there is no CLS to cut off."""
    named: dict[PerturbationName, Perturbation] = {"none": NoPerturbation(), "self_only": SelfOnly()}
    if model.config.cls_token:
        named["no_cls"] = NoCls()
    if with_masks:
        named |= {"no_context": DropTokens("context"), "no_class": DropTokens("class")}
    return named


def check_cls_token(model: ViT) -> None:
    """Raises UsageError for a model without CLS."""
    if not model.config.cls_token:
        raise UsageError("the model has no CLS token, so no_cls cuts nothing; use self_only, or a model with CLS")


def measure_perturbations(
    model: ViT,
    split: Split,
    *,
    names: tuple[PerturbationName, ...] | None = None,
    masks: PatchMasks | None = None,
    confidence: float = 0.95,
    advance: Advance = lambda images: None,
) -> tuple[PerturbationEffect, ...]:
    """The effect of every perturbation, or of those named; the unperturbed model is the first. One pass each.

    Raises UsageError for one that the model or the masks do not allow.
    """
    known = perturbations(model, masks is not None)
    wanted = tuple(known) if names is None else names
    if "no_cls" in wanted:
        check_cls_token(model)
    if missing := [name for name in wanted if name not in known]:
        raise UsageError(f"{missing[0]} drops tokens by a mask, and there are no masks; name them with --masks")
    plain: Float64s | None = None
    effects = []
    for name in dict.fromkeys(("none", *wanted)):
        effect, correct = _measure(model, split, name, known[name], plain, masks, confidence, advance)
        plain = correct if plain is None else plain
        effects.append(effect)
    return tuple(effects)


def _measure(
    model: ViT,
    split: Split,
    name: PerturbationName,
    perturbation: Perturbation,
    plain: Float64s | None,
    masks: PatchMasks | None,
    confidence: float,
    advance: Advance,
) -> tuple[PerturbationEffect, Float64s]:
    """Effect and (images,) hits. plain: those of the unperturbed model."""
    last = model.config.depth - 1
    watched = _KeptOnly(IdentifiabilityObserver(ClassProjection.of(model), only_block=last), perturbation)
    observe(model, split, [watched], perturbation=perturbation, masks=masks, advance=advance)
    correct = torch.cat(watched.correct).numpy()
    accuracy, change = ShareTally(), ShareTally()
    accuracy.add(correct)
    change.add((correct - (correct if plain is None else plain) + 1) / 2)
    paired = change.estimate(confidence).scaled(2, -1)
    states = watched.observer.result(confidence).states
    return PerturbationEffect(name, accuracy.estimate(confidence), paired, states), correct


class _KeptOnly:
    """Hands a pass on with the dropped tokens taken out of every kind, and notes the hits: NaN for an image without
    tokens."""

    def __init__(self, observer: IdentifiabilityObserver, perturbation: Perturbation) -> None:
        self.observer, self.perturbation = observer, perturbation
        self.correct: list[Tensor] = []

    def see(self, states: BlockStates, batch: TokenBatch) -> None:
        self.observer.see(states, self._kept_batch(batch))

    def finish(self, logits: Tensor, batch: TokenBatch) -> None:
        hits = (logits.argmax(-1) == batch.labels).double()
        kept = self.perturbation.kept(batch)
        if kept is not None:
            hits[~(kept & batch.kinds["image"]).any(-1)] = float("nan")
        self.correct.append(hits.cpu())

    def _kept_batch(self, batch: TokenBatch) -> TokenBatch:
        kept = self.perturbation.kept(batch)
        if kept is None:
            return batch
        whole = (kept & batch.kinds["image"]).any(-1, keepdim=True)
        return TokenBatch(
            batch.images, batch.labels, {kind: tokens & kept & whole for kind, tokens in batch.kinds.items()}
        )


def _in_every_block(model: ViT, tensor: str, edit: Callable[[Tensor], Tensor]) -> dict[str, Edit]:
    heads = model.config.heads
    return {f"block.{index}.attn.{tensor}": edit for index in range(len(heads)) if heads[index]}
