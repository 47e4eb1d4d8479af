"""Operators as ONNX defines them, for models in PyTorch that are held against compiled engines."""

from __future__ import annotations

import math

import torch

from testbed.models.vit import ViT
from tests.support.blocks import blocks_of


class LayerNormOfOnnx(torch.nn.LayerNorm):
    """d = x - mean; d / sqrt(mean(d^2) + eps). Where d^2 overflows this gives 0, and PyTorch's own kernel NaN."""

    def __init__(self, norm: torch.nn.Module) -> None:
        assert isinstance(norm, torch.nn.LayerNorm)
        super().__init__(norm.normalized_shape, norm.eps)
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        d = x - x.mean(-1, keepdim=True)
        return d / ((d * d).mean(-1, keepdim=True) + self.eps).sqrt() * self.weight + self.bias


def gelu_of_onnx(x: torch.Tensor) -> torch.Tensor:
    """0.5 x (1 + erf(x / sqrt 2)). PyTorch's own kernel doubles before it halves: of 2e38 it gives infinity."""
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def use_onnx_layer_norms(model: ViT) -> None:
    """Put these layer norms in place of PyTorch's own; parameters stay what they are."""
    model.norm = LayerNormOfOnnx(model.norm)
    for block in blocks_of(model):
        block.norm1, block.norm2 = LayerNormOfOnnx(block.norm1), LayerNormOfOnnx(block.norm2)


def use_onnx_gelu(model: ViT) -> None:
    """Put this function in place of PyTorch's own GELU."""
    assert model.config.activation == "gelu"
    for block in blocks_of(model):
        block.mlp.activation = gelu_of_onnx
