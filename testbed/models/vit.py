"""One configurable Vision Transformer, meant to be read in one sitting.

Every tensor a fault can strike passes through a named ``Tap`` (the identity). A tap's ``site`` is the stable name that
plans, reports and ONNX files use; parameter names equal weight-site names (``block.3.mlp.fc1.weight``).

Shapes: B images, N tokens (CLS included), D width, H heads, d head width, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from testbed.core.errors import UsageError
from testbed.models.config import Activation, ViTConfig


class Tap(nn.Identity):
    """The identity, under a site's name. Hook it to read, replace or export the tensor."""

    def __init__(self, site: str) -> None:
        super().__init__()
        self.site = site


class PatchEmbed(nn.Module):
    """(B, C, S, S) -> (B, P, D). Linear flattens a patch as (row, column, channel), the order of vit-pytorch."""

    def __init__(self, c: ViTConfig) -> None:
        super().__init__()
        self.image, self.patch, self.grid = (c.channels, c.image, c.image), c.patch, c.grid
        self.conv = c.patchify == "conv"
        flat = c.patch**2 * c.channels
        self.norm_in = nn.LayerNorm(flat, c.norm_eps) if c.patch_norm and not self.conv else nn.Identity()
        self.proj = nn.Conv2d(c.channels, c.width, c.patch, c.patch) if self.conv else nn.Linear(flat, c.width)
        self.norm_out = nn.LayerNorm(c.width, c.norm_eps) if c.patch_norm else nn.Identity()
        self.out = Tap("patch_embed")

    def forward(self, images: Tensor) -> Tensor:
        if images.dim() != 4 or tuple(images.shape[1:]) != self.image:  # else reshape would cut wrong patches silently
            raise UsageError(f"the model takes images {('B', *self.image)}, not {tuple(images.shape)}")
        if self.conv:
            x = self.proj(images).flatten(2).transpose(1, 2)
        else:
            channels, p, g = images.shape[1], self.patch, self.grid
            x = images.reshape(-1, channels, g, p, g, p).permute(0, 2, 4, 3, 5, 1)
            x = self.proj(self.norm_in(x.reshape(-1, g * g, p * p * channels)))
        return self.out(self.norm_out(x))


class Attention(nn.Module):
    """(B, N, D) -> (B, N, D); the module whose first instance is the attention subnetwork.

    Differential attention (Ye et al. 2024) halves q and k per head: A = softmax(q1 k1^T s) - lambda softmax(q2 k2^T s),
    s = (d/2)^-1/2, lambda one learned scalar per block. Its 2H maps are laid out as H first maps, then H second maps.
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
        if self.differential:
            self.mix = nn.Parameter(torch.tensor(0.8 - 0.6 * math.exp(-0.3 * index)))
        self.q, self.k, self.v = Tap(f"{site}.q"), Tap(f"{site}.k"), Tap(f"{site}.v")
        self.scores, self.softmax = Tap(f"{site}.scores"), Tap(f"{site}.softmax")
        self.context, self.out = Tap(f"{site}.context"), Tap(f"{site}.proj")

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.shape[1]
        qkv = self.qkv(x).reshape(-1, tokens, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
        q, k, v = self.q(qkv[0]), self.k(qkv[1]), self.v(qkv[2])  # each (B, H, N, d); unbind would export as a sequence
        if self.differential:
            q, k = self._halves(q), self._halves(k)  # (B, 2H, N, d/2)
        scores = self.scores(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5)
        maps = self.softmax(scores.softmax(-1))  # (B, H or 2H, N, N)
        if self.differential:
            pair = maps.reshape(-1, 2, self.heads, tokens, tokens)
            maps = pair.select(1, 0) - self.mix * pair.select(1, 1)
        context = (self.drop(maps) @ v).transpose(1, 2).reshape(-1, tokens, self.heads * self.head_width)
        return self.drop(self.out(self.proj(self.context(context))))

    def _halves(self, x: Tensor) -> Tensor:
        """(B, H, N, d) -> (B, 2H, N, d/2): the first halves of all heads, then the second halves."""
        tokens, half = x.shape[2], self.head_width // 2
        halves = x.reshape(-1, self.heads, tokens, 2, half).permute(0, 3, 1, 2, 4)
        return halves.reshape(-1, 2 * self.heads, tokens, half)


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
    """(B, N, D) -> (B, N, D). The activation's site is called ``gelu`` whichever function it is."""

    def __init__(self, c: ViTConfig, index: int) -> None:
        super().__init__()
        site = f"block.{index}.mlp"
        self.fc1 = nn.Linear(c.width, c.mlp[index])
        self.fc2 = nn.Linear(c.mlp[index], c.width)
        self.drop, self.activation = nn.Dropout(c.dropout), ACTIVATIONS[c.activation]
        self.hidden, self.gelu, self.out = Tap(f"{site}.fc1"), Tap(f"{site}.gelu"), Tap(f"{site}.fc2")

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.gelu(self.activation(self.hidden(self.fc1(x)))))
        return self.drop(self.out(self.fc2(x)))


class Block(nn.Module):
    """(B, N, D) -> (B, N, D): attention, then MLP; either may be absent in a pruned model.

    A pre-norm's LayerNorm goes with its branch. A post-norm's is on the residual stream, so it stays without it. A
    residual post-norm's is at its branch's end, and both branches are there.
    """

    norm1: nn.LayerNorm
    norm2: nn.LayerNorm
    attn: Attention
    mlp: Mlp
    norm1_out: Tap
    norm2_out: Tap
    attn_residual: Tap
    mlp_residual: Tap

    def __init__(self, c: ViTConfig, index: int) -> None:
        super().__init__()
        self.order, self.has_attention, self.has_mlp = c.norm_order, c.heads[index] > 0, c.mlp[index] > 0
        site = f"block.{index}"
        attention: dict[str, nn.Module] = {}
        mlp: dict[str, nn.Module] = {}
        if self.has_attention:
            attention = {"attn": Attention(c, index), "attn_residual": Tap(f"{site}.attn.residual")}
        if self.has_mlp:
            mlp = {"mlp": Mlp(c, index), "mlp_residual": Tap(f"{site}.mlp.residual")}
        for branch, norm in ((attention, "norm1"), (mlp, "norm2")):
            normed = {norm: nn.LayerNorm(c.width, c.norm_eps), f"{norm}_out": Tap(f"{site}.{norm}")}
            if self.order == "pre":
                ordered = normed | branch if branch else {}
            elif self.order == "post":
                ordered = branch | normed
            else:
                function, residual = branch.items()
                ordered = dict([function, *normed.items(), residual])
            for name, module in ordered.items():  # declared in the order of the forward pass, as taps() promises
                self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        if self.order == "residual_post":
            x = self.attn_residual(x + self.norm1_out(self.norm1(self.attn(x))))
            return self.mlp_residual(x + self.norm2_out(self.norm2(self.mlp(x))))
        if self.order == "pre":
            if self.has_attention:
                x = self.attn_residual(x + self.attn(self.norm1_out(self.norm1(x))))
            if self.has_mlp:
                x = self.mlp_residual(x + self.mlp(self.norm2_out(self.norm2(x))))
            return x
        if self.has_attention:
            x = self.attn_residual(x + self.attn(x))
        x = self.norm1_out(self.norm1(x))
        if self.has_mlp:
            x = self.mlp_residual(x + self.mlp(x))
        return self.norm2_out(self.norm2(x))


class ViT(nn.Module):
    """(B, C, S, S) images -> (B, K) logits. Raises UsageError for one that memory does not hold."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        c = self.config = config
        if torch.get_default_device().type != "meta":
            c.check_memory(1)
        self.patch_embed = PatchEmbed(c)
        if c.cls_token:
            self.cls_token = nn.Parameter(_initial(c, 1, 1, c.width))
        if c.position == "1d":
            self.pos_embed = nn.Parameter(_initial(c, 1, c.tokens, c.width))
        elif c.position == "2d":  # factorised: one table for rows, one for columns; CLS gets none
            self.pos_row = nn.Parameter(_initial(c, 1, c.grid, 1, c.width))
            self.pos_column = nn.Parameter(_initial(c, 1, 1, c.grid, c.width))
        elif c.position == "sinusoidal":
            self.register_buffer("pos_table", sinusoidal(c.tokens, c.width)[None], persistent=False)
        elif c.position == "sincos_2d":
            self.register_buffer("pos_table", sincos_2d(c.grid, c.width)[None], persistent=False)
        self.embed_drop, self.embed = nn.Dropout(c.embed_dropout), Tap("embed")
        self.block = nn.ModuleList(Block(c, i) for i in range(c.depth))
        self.norm = nn.LayerNorm(c.width, c.norm_eps) if c.final_norm != "none" else nn.Identity()
        self.norm_out = Tap("norm") if c.final_norm != "none" else nn.Identity()
        self.head, self.logits = nn.Linear(c.width, c.classes), Tap("head")

    def forward(self, images: Tensor) -> Tensor:
        x = self.embedded(images)
        for block in self.block:
            x = block(x)
        return self.classified(x)

    def embedded(self, images: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, N, D): patches, CLS, positions."""
        x = self.patch_embed(images)
        if self.config.position == "2d":
            x = x + (self.pos_row + self.pos_column).flatten(1, 2)
        elif self.config.position == "sincos_2d":
            x = x + self.pos_table
        if self.config.cls_token:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        if self.config.position == "1d":
            x = x + self.pos_embed
        elif self.config.position == "sinusoidal":
            x = x + self.pos_table
        return self.embed(self.embed_drop(x))

    def classified(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, K): final norm, pooling, head."""
        where = self.config.final_norm
        if where == "tokens":
            x = self.norm_out(self.norm(x))
        x = self._pooled(x)
        if where == "pooled":
            x = self.norm_out(self.norm(x))
        return self.logits(self.head(x))

    def _pooled(self, x: Tensor) -> Tensor:
        if self.config.pooling == "cls":
            return x.select(1, 0)
        if self.config.pooling == "mean_patches" and self.config.cls_token:
            x = x[:, 1:]
        return x.mean(1)


def taps(model: nn.Module) -> dict[str, Tap]:
    """Site name -> tap, in the order of the forward pass. Every one of them is reached by every forward pass."""
    return {m.site: m for m in model.modules() if isinstance(m, Tap)}


def sinusoidal(tokens: int, width: int) -> Tensor:
    """(tokens, width) fixed sine / cosine table (Vaswani et al. 2017), even columns sine, odd columns cosine."""
    position = torch.arange(tokens, dtype=torch.float64)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10_000.0) / width))
    table = torch.zeros(tokens, width, dtype=torch.float64)
    table[:, 0::2], table[:, 1::2] = torch.sin(position * rate), torch.cos(position * rate)
    return table.float()


def sincos_2d(grid: int, width: int) -> Tensor:
    """(grid^2, width) fixed table of SimpleViT (Beyer et al. 2022): sine and cosine of the column, then of the row."""
    quarter = width // 4
    rate = 10_000.0 ** (-torch.arange(quarter, dtype=torch.float64) / (quarter - 1))
    angle = torch.arange(grid, dtype=torch.float64)[:, None] * rate  # of a row or a column
    row, column = angle.repeat_interleave(grid, 0), angle.repeat(grid, 1)
    return torch.cat([column.sin(), column.cos(), row.sin(), row.cos()], dim=1).float()


def _initial(c: ViTConfig, *shape: int) -> Tensor:
    if c.init == "zero":
        return torch.zeros(*shape)
    if c.init == "trunc":
        return nn.init.trunc_normal_(torch.empty(*shape), std=0.02)
    return torch.randn(*shape)
