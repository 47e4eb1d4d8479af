"""What a block of our Vision Transformer is made of: attention and MLP, and the taps that name their tensors.

Shapes: B images, N tokens (CLS included), D width, H heads, d head width, M neurons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from testbed.models.config import Activation, ViTConfig


class Tap(nn.Identity):
    """The identity, under a site's name. Hook it to read, replace or export the tensor."""

    def __init__(self, site: str) -> None:
        super().__init__()
        self.site = site


class Attention(nn.Module):
    """(B, N, D) -> (B, N, D); the module whose first instance is the attention subnetwork.

    Differential attention (Ye et al. 2024) halves q and k per head: A = softmax(q1 k1^T s) - lambda softmax(q2 k2^T s),
    s = (d/2)^-1/2, lambda one learned scalar per block. Its 2H maps are laid out as H first maps, then H second maps.
    With ``qk_norm`` a LayerNorm over d comes before the sites q and k; layer scale comes last.
    """

    def __init__(self, c: ViTConfig, index: int) -> None:
        super().__init__()
        site = f"block.{index}.attn"
        self.heads, self.head_width = c.heads[index], c.head_width
        self.differential = c.attention == "differential"
        inner = self.heads * self.head_width
        self.qkv = nn.Linear(c.width, 3 * inner, bias=c.qkv_bias)
        self.proj = nn.Linear(inner, c.width, bias=c.proj_bias)
        self.drop = nn.Dropout(c.dropout)
        if c.qk_norm:
            self.q_norm, self.k_norm = (
                nn.LayerNorm(self.head_width, c.norm_eps),
                nn.LayerNorm(self.head_width, c.norm_eps),
            )
        if self.differential:
            self.mix = nn.Parameter(torch.tensor(0.8 - 0.6 * math.exp(-0.3 * index)))
        self.q, self.k, self.v = Tap(f"{site}.q"), Tap(f"{site}.k"), Tap(f"{site}.v")
        self.scores, self.softmax = Tap(f"{site}.scores"), Tap(f"{site}.softmax")
        self.context, self.out = Tap(f"{site}.context"), Tap(f"{site}.proj")
        self.qk_norm, self.layer_scale = c.qk_norm, c.layer_scale
        if c.layer_scale:
            self.layerscale, self.scaled = _layer_scale(c), Tap(f"{site}.scaled")

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.shape[1]
        qkv = self.qkv(x).reshape(-1, tokens, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]  # each (B, H, N, d); unbind would export as a sequence
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = self.q(q), self.k(k), self.v(v)
        if self.differential:
            q, k = self._halves(q), self._halves(k)  # (B, 2H, N, d/2)
        scores = self.scores(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5)
        maps = self.softmax(scores.softmax(-1))  # (B, H or 2H, N, N)
        if self.differential:
            pair = maps.reshape(-1, 2, self.heads, tokens, tokens)
            maps = pair.select(1, 0) - self.mix * pair.select(1, 1)
        context = (self.drop(maps) @ v).transpose(1, 2).reshape(-1, tokens, self.heads * self.head_width)
        out = self.out(self.proj(self.context(context)))
        return self.drop(self.scaled(out * self.layerscale) if self.layer_scale else out)

    @property
    def output_weight(self) -> Tensor:
        """(D, H d): what maps the context to the branch's output, layer scale included."""
        return self.proj.weight * self.layerscale[:, None] if self.layer_scale else self.proj.weight

    def _halves(self, x: Tensor) -> Tensor:
        """(B, H, N, d) -> (B, 2H, N, d/2): the first halves of all heads, then the second halves."""
        tokens, half = x.shape[2], self.head_width // 2
        halves = x.reshape(-1, self.heads, tokens, 2, half).permute(0, 3, 1, 2, 4)
        return halves.reshape(-1, 2 * self.heads, tokens, half)


LAYER_SCALE_START = 1e-5  # as in "Going deeper with image transformers", whose networks are deep


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": nn.functional.gelu,
    "gelu_tanh": partial(nn.functional.gelu, approximate="tanh"),
    "quick_gelu": _quick_gelu,
    "relu": nn.functional.relu,
    "silu": nn.functional.silu,
}


class Mlp(nn.Module):
    """(B, N, D) -> (B, N, D). The activation's site is called ``gelu`` whichever function it is.

    Gated (GLU, Shazeer 2020; with "silu": SwiGLU): the activation acts on a map of its own, ``gate``, and what goes on is
    its product with ``fc1``. Layer scale (Touvron et al. 2021), one factor per channel, comes last.
    """

    def __init__(self, c: ViTConfig, index: int) -> None:
        super().__init__()
        site = f"block.{index}.mlp"
        self.is_gated, self.layer_scale = c.gated_mlp, c.layer_scale
        if c.gated_mlp:
            self.gate, self.gate_out = nn.Linear(c.width, c.mlp[index]), Tap(f"{site}.gate")
        self.fc1 = nn.Linear(c.width, c.mlp[index])
        self.fc2 = nn.Linear(c.mlp[index], c.width)
        self.drop, self.activation = nn.Dropout(c.dropout), ACTIVATIONS[c.activation]
        self.hidden, self.gelu = Tap(f"{site}.fc1"), Tap(f"{site}.gelu")
        if c.gated_mlp:
            self.gated = Tap(f"{site}.gated")
        self.out = Tap(f"{site}.fc2")
        if c.layer_scale:
            self.layerscale, self.scaled = _layer_scale(c), Tap(f"{site}.scaled")

    def forward(self, x: Tensor) -> Tensor:
        if self.is_gated:
            gate, hidden = self.gate_out(self.gate(x)), self.hidden(self.fc1(x))
            x = self.drop(self.gated(self.gelu(self.activation(gate)) * hidden))
        else:
            x = self.drop(self.gelu(self.activation(self.hidden(self.fc1(x)))))
        out = self.out(self.fc2(x))
        return self.drop(self.scaled(out * self.layerscale) if self.layer_scale else out)

    @property
    def neurons(self) -> Tap:
        """What the last map reads: (B, N, M)."""
        return self.gated if self.is_gated else self.gelu

    @property
    def output_weight(self) -> Tensor:
        """(D, M): what maps the neurons to the branch's output, layer scale included."""
        return self.fc2.weight * self.layerscale[:, None] if self.layer_scale else self.fc2.weight


def _layer_scale(c: ViTConfig) -> nn.Parameter:
    return nn.Parameter(torch.full((c.width,), LAYER_SCALE_START))
