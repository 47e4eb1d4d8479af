"""One configurable Vision Transformer, meant to be read in one sitting, after its attention and MLP (``branches``).

Every tensor a fault can strike passes through a named ``Tap`` (the identity). A tap's ``site`` is the stable name that
plans, reports and ONNX files use; parameter names equal weight-site names (``block.3.mlp.fc1.weight``).

Shapes: B images, N tokens (CLS included), D width, P patches, K classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from testbed.core.errors import UsageError
from testbed.models.branches import ACTIVATIONS, Attention, Mlp, Tap
from testbed.models.config import ViTConfig

__all__ = ["ACTIVATIONS", "Attention", "Block", "Mlp", "PatchEmbed", "Tap", "ViT", "sincos_2d", "sinusoidal", "taps"]


class PatchEmbed(nn.Module):
    """(B, C, S, S) -> (B, P, D). Linear flattens a patch as (row, column, channel), the order of vit-pytorch."""

    def __init__(self, c: ViTConfig) -> None:
        super().__init__()
        self.image, self.patch, self.grid = (c.channels, c.image, c.image), c.patch, c.grid
        self.conv = c.patchify == "conv"
        flat = c.patch**2 * c.channels
        self.norm_in = nn.LayerNorm(flat, c.norm_eps) if c.patch_norm and not self.conv else nn.Identity()
        self.proj = (
            nn.Conv2d(c.channels, c.width, c.patch, c.patch, bias=c.patch_bias)
            if self.conv
            else nn.Linear(flat, c.width, bias=c.patch_bias)
        )
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
        if c.distillation != "none":
            self.dist_token = nn.Parameter(_initial(c, 1, 1, c.width))
        if c.registers:
            self.registers = nn.Parameter(_initial(c, 1, c.registers, c.width))
        if c.position == "1d":
            rows = c.tokens if c.position_on == "tokens" else c.grid**2
            self.pos_embed = nn.Parameter(_initial(c, 1, rows, c.width))
        elif c.position == "2d":  # factorised: one table for rows, one for columns; CLS gets none
            self.pos_row = nn.Parameter(_initial(c, 1, c.grid, 1, c.width))
            self.pos_column = nn.Parameter(_initial(c, 1, 1, c.grid, c.width))
        elif c.position == "sinusoidal":
            self.register_buffer("pos_table", sinusoidal(c.tokens, c.width)[None], persistent=False)
        elif c.position == "sincos_2d":
            self.register_buffer("pos_table", sincos_2d(c.grid, c.width)[None], persistent=False)
        self.embed_drop = nn.Dropout(c.embed_dropout)
        if c.embed_norm:
            self.embed_norm = nn.LayerNorm(c.width, c.norm_eps)
        self.embed = Tap("embed")
        self.block = nn.ModuleList(Block(c, i) for i in range(c.depth))
        self.norm = nn.LayerNorm(c.width, c.norm_eps) if c.final_norm != "none" else nn.Identity()
        self.norm_out = Tap("norm") if c.final_norm != "none" else nn.Identity()
        self.head = nn.Linear(c.head_inputs, c.classes)
        if c.distillation == "head":
            self.head_dist = nn.Linear(c.width, c.classes)
            self.head_out, self.head_dist_out = Tap("head_cls"), Tap("head_dist")
        self.logits = Tap("head")

    def forward(self, images: Tensor) -> Tensor:
        x = self.embedded(images)
        for block in self.block:
            x = block(x)
        return self.classified(x)

    def embedded(self, images: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, N, D): patches, the tokens before them (CLS, distillation, registers), positions, norm."""
        x = self.patch_embed(images)
        if self.config.position == "2d":
            x = x + (self.pos_row + self.pos_column).flatten(1, 2)
        elif self.config.position == "sincos_2d":
            x = x + self.pos_table
        on_patches = self.config.position_on == "patches"
        if self.config.position == "1d" and on_patches:
            x = x + self.pos_embed
        if before := self._tokens_before():
            x = torch.cat([*(token.expand(x.shape[0], -1, -1) for token in before), x], dim=1)
        if self.config.position == "1d" and not on_patches:
            x = x + self.pos_embed
        elif self.config.position == "sinusoidal":
            x = x + self.pos_table
        x = self.embed_drop(x)
        return self.embed(self.embed_norm(x) if self.config.embed_norm else x)

    def _tokens_before(self) -> list[Tensor]:
        """Each (1, n, D)."""
        c = self.config
        tokens = {"cls_token": c.cls_token, "dist_token": c.distillation != "none", "registers": c.registers > 0}
        return [getattr(self, name) for name, there in tokens.items() if there]

    def classified(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, K): final norm, pooling, head; of two heads the mean."""
        where = self.config.final_norm
        if where == "tokens":
            x = self.norm_out(self.norm(x))
        if self.config.distillation == "head":
            of_cls = self.head_out(self.head(x.select(1, 0)))
            return self.logits((of_cls + self.head_dist_out(self.head_dist(x.select(1, 1)))) / 2)
        x = self._pooled(x)
        if where == "pooled":
            x = self.norm_out(self.norm(x))
        return self.logits(self.head(x))

    def _pooled(self, x: Tensor) -> Tensor:
        if self.config.pooling == "cls":
            return x.select(1, 0)
        patches = x[:, self.config.prefix_tokens :] if self.config.prefix_tokens else x
        if self.config.pooling == "cls_and_mean":
            return torch.cat([x.select(1, 0), patches.mean(1)], dim=-1)
        return (x if self.config.pooling == "mean" else patches).mean(1)


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
