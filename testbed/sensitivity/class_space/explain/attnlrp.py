"""Layer-wise relevance propagation through attention, as a gradient with other rules on the way back.

Relevance of a token is the sum over its embedding's elements of value times gradient, where the backward pass is
changed so that this product is relevance (Achtibat et al., "AttnLRP", ICML 2024):

linear maps       the epsilon rule with epsilon 0, which is the gradient itself
normalisation     the standard deviation counts as a constant (identity rule)
activation        f(x) = x (f(x) / x), with the ratio as a constant (identity rule)
products          of queries and keys, of attention and values, and in a gated MLP, pass half to each factor (uniform
                  rule)
softmax           its first-order (Taylor) rule, which is the gradient itself

What a bias contributes is relevance of no token, as there. The differential map's lambda counts as a constant.

Shapes: B images, N tokens, T image tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from testbed.models.config import ViTConfig
from testbed.models.vit import ViT
from testbed.sensitivity.class_space.recorder import Edit, StateRecorder, recorded

GRAPH_BYTES = 1 << 30
"""Of one backward pass. A block keeps about 3 tensors of its maps' size for each image, 5 of the MLP's and 10 of the
stream's."""


def attnlrp_relevance(model: ViT, images: Tensor, classes: Tensor) -> Tensor:
    """(B, T) relevance of each image token for the class's logit, positions included."""
    return token_relevance(model, images, classes)[:, model.config.prefix_tokens :]


def token_relevance(model: ViT, images: Tensor, classes: Tensor) -> Tensor:
    """(B, N) relevance of each embedded token, CLS too: what is missing to the logit is that of the biases and of the
    softmax's point of expansion. Of as many images at a time as the graph of all blocks has memory for."""
    at_once = images_at_once(model.config)
    parts = zip(images.split(at_once), classes.split(at_once), strict=True)
    return torch.cat([_token_relevance(model, *part) for part in parts])


def images_at_once(config: ViTConfig) -> int:
    """How many images' graphs `GRAPH_BYTES` hold, 1 at least."""
    per_token = sum(
        3 * heads * config.tokens + 5 * width + 10 * config.width
        for heads, width in zip(config.heads, config.mlp, strict=True)
    )
    return max(1, GRAPH_BYTES // (4 * config.tokens * max(per_token, 1)))


def _token_relevance(model: ViT, images: Tensor, classes: Tensor) -> Tensor:
    with propagated_relevance(model) as recorder:
        tokens = recorder.embed(images).detach().requires_grad_()
        logits = recorder.classify(recorder.run(tokens)).gather(1, classes[:, None]).sum()
        (gradient,) = torch.autograd.grad(logits, tokens)
    return (tokens * gradient).sum(-1).detach()


@contextmanager
def propagated_relevance(model: ViT) -> Iterator[StateRecorder]:
    """A recorder whose gradients, times the value of a tensor that adds up with others to a stream, are relevance."""
    with torch.enable_grad(), recorded(model, _rules(model)) as recorder, _identity_rule_of_norms(model):
        yield recorder


def _rules(model: ViT) -> Mapping[str, Edit]:
    edits: dict[str, Edit] = {}
    for index, (heads, width) in enumerate(zip(model.config.heads, model.config.mlp, strict=True)):
        if heads:
            for factor in ("q", "k", "v", "softmax"):
                edits[f"block.{index}.attn.{factor}"] = half_gradient
        if width:
            ratio, mlp = _ActivationRule(), f"block.{index}.mlp"
            edits[f"{mlp}.gate" if model.config.gated_mlp else f"{mlp}.fc1"] = ratio.before
            edits[f"{mlp}.gelu"] = ratio.after
            if model.config.gated_mlp:  # a product of two, which pass half each
                edits[f"{mlp}.fc1"] = half_gradient
                edits[f"{mlp}.gelu"] = ratio.after_in_product
    return edits


def half_gradient(x: Tensor) -> Tensor:
    """The same values; gradients pass by half."""
    return x / 2 + (x / 2).detach()


class _ActivationRule:
    """The identity rule for one activation: its two ends are seen in turn."""

    def before(self, x: Tensor) -> Tensor:
        self.x = x
        return x

    def after(self, output: Tensor) -> Tensor:
        x = self.x
        safe = torch.where(x == 0, torch.ones_like(x), x)  # f(0) passes nothing on, as it is nothing
        ratio = torch.where(x == 0, torch.zeros_like(x), output / safe).detach()
        del self.x
        return x * ratio

    def after_in_product(self, output: Tensor) -> Tensor:
        return half_gradient(self.after(output))


@contextmanager
def _identity_rule_of_norms(model: nn.Module) -> Iterator[None]:
    handles = [
        module.register_forward_hook(_norm_with_constant_deviation)
        for module in model.modules()
        if isinstance(module, nn.LayerNorm)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _norm_with_constant_deviation(norm: nn.Module, inputs: tuple[Any, ...], _output: Tensor) -> Tensor:
    assert isinstance(norm, nn.LayerNorm)
    (x,) = inputs
    deviation = (x.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt().detach()
    normed: Tensor = (x - x.mean(-1, keepdim=True)) / deviation
    return normed * norm.weight + norm.bias
