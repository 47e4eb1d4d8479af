"""Attention distances by hand on a 2 x 2 grid of patches that are 4 pixels wide."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from testbed.core.errors import UsageError
from testbed.models.vit import ViT
from testbed.sensitivity.circuits.components import components
from testbed.sensitivity.rank.images import ScoredImages
from testbed.sensitivity.rank.methods.attention_distance import attention_distance_scores
from tests.support.site_tensors import site_tensors


@pytest.mark.parametrize("attention", ["softmax", "differential"])
def test_a_head_that_looks_everywhere_alike(
    make_model: Callable[..., ViT], scored: ScoredImages, attention: str
) -> None:
    model = make_model(attention=attention)
    with torch.no_grad():
        model.get_parameter("block.0.attn.qkv.weight")[8:16] = 0  # keys: every map is uniform
    scores = attention_distance_scores(model, scored, components(model.config, ["head", "block"]), scored.settings)
    everywhere = (0 + 4 + 4 + 4 * math.sqrt(2)) / 4
    for name in ("block.0.head.0", "block.0.head.1", "block.0"):
        assert scores[name] == pytest.approx(everywhere)
    assert scores["block.1.head.0"] != pytest.approx(everywhere)


def test_it_is_the_mean_distance_of_what_patches_attend_to(
    make_model: Callable[..., ViT], scored: ScoredImages
) -> None:
    model = make_model()
    scores = attention_distance_scores(model, scored, components(model.config, ["head", "block"]), scored.settings)
    maps = site_tensors(model, scored.analysis.images)["block.1.attn.softmax"].astype(np.float64)
    centres = [(2, 2), (2, 6), (6, 2), (6, 6)]
    heads = []
    for head in range(2):
        distances = []
        for image in maps[:, head]:
            for query in range(4):
                weights = image[query + 1, 1:] / image[query + 1, 1:].sum()
                distances.append(sum(w * math.dist(centres[query], c) for w, c in zip(weights, centres, strict=True)))
        heads.append(float(np.mean(distances)))
    assert [scores["block.1.head.0"], scores["block.1.head.1"]] == pytest.approx(heads, rel=1e-6)
    assert scores["block.1"] == pytest.approx(sum(heads) / 2, rel=1e-6)


def test_a_block_without_attention_is_told(make_model: Callable[..., ViT], scored: ScoredImages) -> None:
    model = ViT(make_model().config.with_(heads=(2, 0)))
    with pytest.raises(UsageError, match=r"block\.1 has no attention"):
        attention_distance_scores(model, scored, components(model.config, ["block"]), scored.settings)
    assert len(attention_distance_scores(model, scored, components(model.config, ["head"]), scored.settings)) == 2
