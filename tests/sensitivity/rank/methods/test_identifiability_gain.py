"""The gain of class identifiability against a direct computation in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from testbed.models.vit import ViT
from testbed.sensitivity.circuits.components import components
from testbed.sensitivity.rank.images import ScoredImages
from testbed.sensitivity.rank.methods.identifiability import identifiability_scores
from tests.support.site_tensors import site_tensors


@pytest.mark.parametrize("changes", [{}, {"norm_order": "post"}, {"attention": "differential", "classes": 5}])
def test_it_is_what_the_stream_says_with_less_without(
    make_model: Callable[..., ViT], scored: ScoredImages, changes: dict[str, str]
) -> None:
    model = make_model(**changes).double()
    analysis = scored.analysis
    object.__setattr__(analysis, "images", analysis.images.double())
    labels = analysis.labels.tolist()
    seen = site_tensors(model, analysis.images)
    p = {name: value.detach().numpy() for name, value in model.named_parameters()}
    post = model.config.norm_order == "post"

    def normed(x: np.ndarray, name: str) -> np.ndarray:
        scale = np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return (x - x.mean(-1, keepdims=True)) / scale * p[f"{name}.weight"] + p[f"{name}.bias"]

    def identified(x: np.ndarray) -> float:
        logits = normed(x, "norm") @ p["head.weight"].T + p["head.bias"]
        ranks = [
            [list(np.argsort(-token)).index(label) for token in rows]
            for rows, label in zip(logits, labels, strict=True)
        ]
        return float(np.mean(1 - np.array(ranks) / logits.shape[-1]))

    def gain(total: np.ndarray, added: np.ndarray, norm: str) -> float:
        if post:
            return identified(normed(total, norm)) - identified(normed(total - added, norm))
        return identified(total) - identified(total - added)

    wanted = {}
    for block in range(2):
        site = f"block.{block}"
        for head in range(2):
            columns = slice(4 * head, 4 * head + 4)
            added = seen[f"{site}.attn.context"][..., columns] @ p[f"{site}.attn.proj.weight"][:, columns].T
            wanted[f"{site}.head.{head}"] = gain(seen[f"{site}.attn.residual"], added, f"{site}.norm1")
        for chunk in range(3):
            columns = slice(2 * chunk, 2 * chunk + 2)
            added = seen[f"{site}.mlp.gelu"][..., columns] @ p[f"{site}.mlp.fc2.weight"][:, columns].T
            wanted[f"{site}.mlp.chunk.{chunk}"] = gain(seen[f"{site}.mlp.residual"], added, f"{site}.norm2")
        ends = ["embed", *(f"block.{n}.norm2" if post else f"block.{n}.mlp.residual" for n in range(2))]
        wanted[site] = identified(seen[ends[block + 1]]) - identified(seen[ends[block]])
    parts = components(model.config, ["head", "chunk", "block"], 3)
    scores = identifiability_scores(model, scored, parts, scored.settings)
    assert scores == pytest.approx(wanted, abs=1e-12)
    assert any(scores.values())
