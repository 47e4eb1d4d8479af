"""Relevance of each image token for a class, by four methods that read one model.

projection_gradient   gradient of the class logit of each block's attention output, read at the query that is pooled, with
                      respect to that query's attention; summed over heads and blocks (Vilas et al., NeurIPS 2023; the
                      gradient is of the logit itself, where their code took a softmax twice)
rollout               product over blocks of (mean over heads + identity) / 2, rows renormalised, read at the pooled query
                      (Abnar & Zuidema, ACL 2020); of differential attention the difference of its maps, cut off at 0
attnlrp               layer-wise relevance propagation through attention, down to the embedded tokens (`attnlrp`)
random                a seeded random order: what an explanation has to beat

The pooled query is CLS, or the mean over the tokens that the head reads.

Shapes: B images, N tokens, T image tokens, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from testbed.core.errors import UsageError
from testbed.models.vit import ViT
from testbed.sensitivity.class_space.explain.attnlrp import attnlrp_relevance
from testbed.sensitivity.class_space.projection import ClassProjection
from testbed.sensitivity.class_space.recorder import Edit, recorded
from testbed.sensitivity.rollout import Rollout, patch_relevance, query_weights

ExplanationMethod = Literal["projection_gradient", "rollout", "attnlrp", "random"]
Explainer = Callable[[ViT, Tensor, Tensor], Tensor]
"""(model, images (B, C, S, S), classes (B,)) -> relevance (B, T)."""


def explainers(seed: int = 0) -> dict[ExplanationMethod, Explainer]:
    """Every method. ``seed``: of the random order, which goes on from batch to batch."""
    generator = torch.Generator().manual_seed(seed)

    def random_relevance(model: ViT, images: Tensor, classes: Tensor) -> Tensor:
        return torch.rand(len(images), model.config.grid**2, generator=generator).to(images.device)

    return {
        "projection_gradient": projection_gradient,
        "rollout": lambda model, images, _: attention_rollout(model, images),
        "attnlrp": attnlrp_relevance,
        "random": random_relevance,
    }


def projection_gradient(model: ViT, images: Tensor, classes: Tensor) -> Tensor:
    """(B, T) gradient of each block's class projection with respect to attention. Raises UsageError for a model without
    attention, and as `ClassProjection.of`."""
    projection = ClassProjection.of(model)
    query = query_weights(model.config).to(images)
    total = images.new_zeros(len(images), model.config.tokens)
    with recorded(model, _detached_inputs(model)) as recorder, torch.enable_grad():
        for states in recorder.blocks(recorder.embed(images)):
            if states.attention_out is None or states.softmax_maps is None:
                continue
            pooled = torch.einsum("n,bnd->bd", query, states.attention_out)
            logits = projection(pooled).gather(1, classes[:, None]).sum()
            (gradient,) = torch.autograd.grad(logits, states.softmax_maps, retain_graph=True)
            if model.config.attention == "differential":  # how the logit changes with the difference of the maps
                gradient = gradient[:, : gradient.shape[1] // 2]
            total += gradient.sum((1, 2))  # of other queries it is 0
    _check_attention(model)
    return total[:, model.config.prefix_tokens :].detach()


def attention_rollout(model: ViT, images: Tensor) -> Tensor:
    """(B, T) attention rollout at the pooled query. Raises UsageError for a model without attention."""
    _check_attention(model)
    rollout = Rollout()
    with recorded(model) as recorder, torch.no_grad():
        for states in recorder.blocks(recorder.embed(images)):
            if states.attention is not None:
                rollout.add(states.attention)
    return patch_relevance(rollout.matrix(model.config.tokens, len(images)), model.config).to(images.dtype)


def _detached_inputs(model: ViT) -> dict[str, Edit]:
    """Cut the graph at each block's maps and at its end: a block's logit depends on its own attention only, and no graph
    of several blocks is held."""
    edits: dict[str, Edit] = {}
    for index, (heads, width) in enumerate(zip(model.config.heads, model.config.mlp, strict=True)):
        if heads:
            edits[f"block.{index}.attn.softmax"] = lambda maps: maps.detach().requires_grad_()
        for branch in ["attn"] * bool(heads) + ["mlp"] * bool(width):
            edits[f"block.{index}.{branch}.residual"] = Tensor.detach
    return edits


def _check_attention(model: ViT) -> None:
    if not any(model.config.heads):
        raise UsageError("the model has no attention in any block; there is none to explain by")
