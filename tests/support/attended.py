"""What torch's own functions of attention are fed and give while a library's model runs: an oracle that no graph has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn


class Attended:
    """Calls of one forward pass. ``products``: q, k, v, mask and scale of the fused attention function, call by call;
    ``maps``: scores and softmax of each softmax; ``normalised``: what is scaled to length one."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.products: list[tuple[Tensor, Tensor, Tensor, Tensor | None, float | None]] = []
        self.maps: list[tuple[Tensor, Tensor]] = []
        self.normalised: list[Tensor] = []
        fused, normalize = nn.functional.scaled_dot_product_attention, nn.functional.normalize
        method = torch.Tensor.softmax  # which torch's function of that name and its module come to

        def attend(
            q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *rest: Any, **options: Any
        ) -> Tensor:
            self.products.append((q, k, v, attn_mask, options.get("scale")))
            return fused(q, k, v, attn_mask, *rest, **options)

        def of_method(scores: Tensor, *rest: Any, **options: Any) -> Tensor:
            self.maps.append((scores, method(scores, *rest, **options)))
            return self.maps[-1][1]

        def to_length_one(x: Tensor, *rest: Any, **options: Any) -> Tensor:
            self.normalised.append(normalize(x, *rest, **options))
            return self.normalised[-1]

        patch.setattr(nn.functional, "scaled_dot_product_attention", attend)
        patch.setattr(torch.Tensor, "softmax", of_method)
        patch.setattr(nn.functional, "normalize", to_length_one)

    def tensors(self, block: int, call: int | None = None) -> dict[str, Tensor]:
        """q, k, v, scores and softmax of a block, whose is the call of the fused function of this number."""
        q, k, v, mask, scale = self.products[block if call is None else call]
        scores = q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
        scores = scores if mask is None else scores + mask
        named = {"q": q, "k": k, "v": v, "scores": scores, "softmax": scores.softmax(-1)}
        return {f"block.{block}.attn.{name}": tensor for name, tensor in named.items()}

    def mapped(self, block: int, call: int | None = None) -> dict[str, Tensor]:
        """Scores and softmax of a block, whose is the softmax of this number."""
        scores, softmax = self.maps[block if call is None else call]
        return {f"block.{block}.attn.scores": scores, f"block.{block}.attn.softmax": softmax}
