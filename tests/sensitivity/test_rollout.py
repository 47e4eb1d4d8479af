"""Rollout against a case computed by hand and against an independent implementation; distances against loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from testbed.models.config import uniform
from testbed.models.vit import ViT
from testbed.sensitivity.attention_maps.distance import head_distances, patch_distances, summarise_distances
from testbed.sensitivity.attention_maps.positions import position_embedding, position_similarity
from testbed.sensitivity.rollout import Rollout, patch_relevance

SMALL: dict[str, Any] = {
    "depth": 2, "heads": 2, "mlp": 6, "image": 8, "patch": 4, "channels": 1, "width": 8, "classes": 3, "head_width": 4,
}  # fmt: skip


def reference_rollout(blocks: list[np.ndarray]) -> np.ndarray:
    """Abnar & Zuidema, equation 1 and their section 3, one image: (H, N, N) maps in forward order -> (N, N)."""
    joint = np.eye(blocks[0].shape[-1])
    for maps in blocks:
        mixed = 0.5 * np.mean(maps, axis=0) + 0.5 * np.eye(maps.shape[-1])
        joint = np.einsum("ij,jk->ik", mixed / np.sum(mixed, axis=1)[:, None], joint)
    return joint


def test_two_blocks_by_hand() -> None:
    first = torch.tensor([[[[0.5, 0.5], [0.0, 1.0]]]])
    second = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    rollout = Rollout()
    rollout.add(first)
    rollout.add(second)
    # A^_1 = [[.75, .25], [0, 1]], A^_2 = [[1, 0], [.5, .5]]
    torch.testing.assert_close(
        rollout.matrix(2, 1)[0], torch.tensor([[0.75, 0.25], [0.375, 0.625]], dtype=torch.float64)
    )


@given(seed=st.integers(0, 2**16), blocks=st.integers(1, 4), heads=st.integers(1, 3), tokens=st.integers(2, 6))
def test_agrees_with_an_independent_implementation(seed: int, blocks: int, heads: int, tokens: int) -> None:
    maps = torch.randn(blocks, 2, heads, tokens, tokens, generator=torch.Generator().manual_seed(seed)).softmax(-1)
    rollout = Rollout()
    for block in maps:
        rollout.add(block)
    matrix = rollout.matrix(tokens, 2)
    for image in range(2):
        expected = reference_rollout([block[image].double().numpy() for block in maps])
        np.testing.assert_allclose(matrix[image].numpy(), expected, rtol=1e-10)
    torch.testing.assert_close(matrix.sum(-1), torch.ones(2, tokens, dtype=torch.float64))


def test_a_row_that_is_not_a_number_passes_its_token_on() -> None:
    maps = torch.full((1, 1, 3, 3), 1 / 3)
    maps[0, 0, 1, 2] = float("nan")
    rollout = Rollout()
    rollout.add(maps)
    assert rollout.matrix(3, 1)[0, 1].tolist() == [0, 1, 0]


def test_no_attention_is_the_identity() -> None:
    assert torch.equal(Rollout().matrix(3, 2), torch.eye(3, dtype=torch.float64).expand(2, 3, 3))


@pytest.mark.parametrize(
    ("changes", "rows", "columns"),
    [
        ({}, [0], [1, 2, 3, 4]),
        ({"pooling": "mean", "cls_token": False}, [0, 1, 2, 3], [0, 1, 2, 3]),
        ({"pooling": "mean"}, [0, 1, 2, 3, 4], [1, 2, 3, 4]),
        ({"pooling": "mean_patches"}, [1, 2, 3, 4], [1, 2, 3, 4]),
    ],
)
def test_relevance_is_of_what_the_head_reads(changes: dict[str, Any], rows: list[int], columns: list[int]) -> None:
    config = uniform(**(SMALL | changes))
    matrix = torch.rand(2, config.tokens, config.tokens, generator=torch.Generator().manual_seed(1)).double()
    expected = matrix[:, rows][:, :, columns].mean(1)
    torch.testing.assert_close(patch_relevance(matrix, config), expected)


def test_distances_are_means_over_queries_in_pixels() -> None:
    config = uniform(**(SMALL | {"image": 12}))  # 3 x 3 patches of 4 pixels, behind CLS
    maps = torch.randn(2, 2, 10, 10, generator=torch.Generator().manual_seed(2)).softmax(-1)
    distances = head_distances(maps, config)
    for image in range(2):
        for head in range(2):
            total = 0.0
            for query in range(9):
                weights = [float(maps[image, head, query + 1, key + 1]) for key in range(9)]
                away = [4 * np.hypot(query // 3 - key // 3, query % 3 - key % 3) for key in range(9)]
                total += np.dot(weights, away) / np.sum(weights)
            assert float(distances[image, head]) == pytest.approx(total / 9, rel=1e-6)


def test_attention_to_oneself_is_at_no_distance_and_uniform_at_the_mean() -> None:
    config = uniform(**SMALL)
    assert head_distances(torch.eye(5).expand(1, 1, 5, 5), config).tolist() == [[0.0]]
    uniform_maps = torch.full((1, 1, 5, 5), 0.2)
    expected = patch_distances(config).mean()
    torch.testing.assert_close(head_distances(uniform_maps, config)[0, 0], expected)


def test_intervals_are_students() -> None:
    values = np.array([[1.0], [2.0], [4.0]])
    (record,) = summarise_distances(3, values)
    half = 4.302652729911275 * np.std(values, ddof=1) / 3**0.5  # t of 2 degrees of freedom, tables
    assert (record.block, record.head, record.images) == (3, 0, 3)
    assert record.high_px == pytest.approx(7 / 3 + half)
    assert record.low_px == max(0.0, 7 / 3 - half)
    assert summarise_distances(0, values[:1])[0].to_json()["std_px"] is None


@pytest.mark.parametrize("position", ["1d", "2d", "sinusoidal", "sincos_2d"])
def test_similarity_of_positions_is_their_cosine(make_model: Callable[..., ViT], position: str) -> None:
    model = make_model(position=position)
    embedding = position_embedding(model)
    assert embedding is not None
    zero = torch.zeros(1, 1, 8, 8)
    with torch.no_grad():  # what the model adds to patches, read off the model itself
        added = model.embedded(zero)[0, -4:]
        patches = model.patch_embed(zero)[0]
    torch.testing.assert_close(embedding, added - patches, rtol=1e-4, atol=1e-5)
    similarity = position_similarity(embedding).numpy()
    vectors = embedding.double().numpy()
    for i, j in ((0, 0), (0, 3), (2, 1)):
        cosine = vectors[i] @ vectors[j] / np.linalg.norm(vectors[i]) / np.linalg.norm(vectors[j])
        assert similarity[i, j] == pytest.approx(cosine)


def test_a_model_without_positions_has_no_similarity(make_model: Callable[..., ViT]) -> None:
    assert position_embedding(make_model(position="none")) is None
