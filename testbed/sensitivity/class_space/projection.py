"""Projection into class space: what the head would say of any hidden state (Vilas et al., NeurIPS 2023).

    p = head(norm(h)), with the final norm's and the head's bias, for every token of every hidden state.

Shapes: B images, N tokens, D width, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from testbed.core.errors import UsageError
from testbed.models.vit import ViT


@dataclass(frozen=True)
class ClassProjection:
    """The final norm and the linear head of a model, for hidden states of any shape (..., D) -> (..., K).

    A model that pools the mean has its norm before or after the pooling; it is applied to each token either way.
    """

    norm: nn.Module
    head: nn.Linear

    @classmethod
    def of(cls, model: ViT) -> ClassProjection:
        """Raises UsageError for a model without a linear head, and for one of fewer than two classes."""
        head = model.head
        if not isinstance(head, nn.Linear):
            raise UsageError(
                f"the model's head is {type(head).__name__}, not one linear layer: hidden states have no classes;"
                " use a model with a linear head"
            )
        if model.config.distillation == "head" or head.in_features != model.config.width:
            what = (
                "two heads" if model.config.distillation == "head" else "a head that reads CLS beside the patches' mean"
            )
            raise UsageError(
                f"the model has {what}: a token's hidden state alone has no classes; use a model with one head"
            )
        if head.out_features < 2:
            raise UsageError("the model has one class: there is nothing to tell it from; use a model of two or more")
        return cls(model.norm, head)

    def __call__(self, states: Tensor) -> Tensor:
        """(..., D) -> (..., K) class logits."""
        logits: Tensor = self.head(self.norm(states))
        return logits

    @property
    def classes(self) -> int:
        return self.head.out_features

    @property
    def embeddings(self) -> Tensor:
        """(K, D) the direction of each class: the rows of the head's weight."""
        return self.head.weight.detach()


def true_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """(B, N) the true class's logit of every token. logits: (B, N, K); labels: (B,) int64."""
    index = labels[:, None, None].expand(-1, logits.shape[1], 1)
    return logits.gather(-1, index).squeeze(-1)


def true_ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """(B, N) int64: how many classes come before the true one, 0 for the best; K where a logit is NaN.

    Of equal logits the class of the lower index comes first, as in top-1. logits: (B, N, K); labels: (B,) int64.
    """
    own = true_logits(logits, labels)[..., None]
    earlier = torch.arange(logits.shape[-1], device=logits.device) < labels[:, None, None]
    ranks = ((logits > own) | ((logits == own) & earlier)).sum(-1)
    return torch.where(logits.isnan().any(-1), logits.shape[-1], ranks)


def class_identifiability(ranks: Tensor, classes: int) -> Tensor:
    """Class identifiability r = 1 - rank / K, from 1 / K (last) to 1 (first). ranks: of `true_ranks`."""
    return 1 - ranks.double() / classes
