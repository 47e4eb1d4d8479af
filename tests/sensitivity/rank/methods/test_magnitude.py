"""Ratios of norms against NumPy on the tensors that plain hooks read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from testbed.models.vit import ViT
from testbed.sensitivity.circuits.components import components
from testbed.sensitivity.rank.images import ScoredImages
from testbed.sensitivity.rank.methods.magnitude import magnitude_scores
from tests.support.site_tensors import site_tensors


@pytest.mark.parametrize("changes", [{}, {"norm_order": "post"}, {"attention": "differential"}])
def test_it_is_the_mean_ratio_of_norms(
    make_model: Callable[..., ViT], scored: ScoredImages, changes: dict[str, str]
) -> None:
    model = make_model(**changes).double()
    analysis = scored.analysis
    object.__setattr__(analysis, "images", analysis.images.double())
    seen = site_tensors(model, analysis.images)
    p = {name: value.detach().numpy() for name, value in model.named_parameters()}
    post = model.config.norm_order == "post"

    def ratio(added: np.ndarray, stream: np.ndarray) -> float:
        return float((np.linalg.norm(added, axis=-1) / np.linalg.norm(stream, axis=-1)).mean())

    wanted = {}
    for block in range(2):
        site, before = f"block.{block}", "block.0.norm2" if post else "block.0.mlp.residual"
        stream = seen["embed"] if block == 0 else seen[before]
        between = seen[f"{site}.norm1"] if post else seen[f"{site}.attn.residual"]
        for head in range(2):
            columns = slice(4 * head, 4 * head + 4)
            added = seen[f"{site}.attn.context"][..., columns] @ p[f"{site}.attn.proj.weight"][:, columns].T
            wanted[f"{site}.head.{head}"] = ratio(added, stream)
        for chunk in range(3):
            columns = slice(2 * chunk, 2 * chunk + 2)
            added = seen[f"{site}.mlp.gelu"][..., columns] @ p[f"{site}.mlp.fc2.weight"][:, columns].T
            wanted[f"{site}.mlp.chunk.{chunk}"] = ratio(added, between)
        branches = ratio(seen[f"{site}.attn.proj"], stream), ratio(seen[f"{site}.mlp.fc2"], between)
        wanted[site] = sum(branches)
    parts = components(model.config, ["head", "chunk", "block"], 3)
    assert magnitude_scores(model, scored, parts, scored.settings) == pytest.approx(wanted, rel=1e-9)
