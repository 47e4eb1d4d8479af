"""Against a direct computation in NumPy, of states that a plain forward pass leaves."""

import numpy as np
import pytest
import torch

from testbed.models.config import uniform
from testbed.models.vit import ViT
from testbed.sensitivity.class_space.identifiability import IdentifiabilityObserver
from testbed.sensitivity.class_space.projection import ClassProjection
from testbed.sensitivity.class_space.stream import batch_size, observe, token_batches
from testbed.sensitivity.class_space.study import random_weights_of
from tests.support.site_tensors import site_tensors


def measured(model, split):
    observer = IdentifiabilityObserver(ClassProjection.of(model))
    observe(model, split, [observer])
    return observer.result()


def project(model, states):
    """In float64, by hand."""
    x = states.astype(np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + model.norm.eps)
    parameters = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    normed = x * parameters["norm.weight"] + parameters["norm.bias"]
    return normed @ parameters["head.weight"].T + parameters["head.bias"]


@pytest.fixture
def direct(make_model, make_split):
    """(model, split, {site: logits (images, tokens, classes)})."""
    model, split = make_model(), make_split(24)
    seen = site_tensors(model, torch.from_numpy(split.batch(slice(None))))
    names = {
        "embedding": "embed",
        "before": "block.0.mlp.residual",
        "attention": "block.1.attn.proj",
        "mlp": "block.1.mlp.fc2",
        "block": "block.1.mlp.residual",
    }
    return model, split, {name: project(model, seen[site]) for name, site in names.items()}, seen["logits"]


def ranks(logits, labels):
    own = np.take_along_axis(logits, labels[:, None, None], axis=-1)
    return (logits > own).sum(-1)


def test_ranks_and_rates_are_the_direct_ones(direct):
    model, split, logits, _ = direct
    result = measured(model, split)
    for state, block in (("embedding", 0), ("attention", 1), ("mlp", 1), ("block", 1)):
        rank = ranks(logits[state], split.labels)
        for tokens, part in (("cls", slice(0, 1)), ("image", slice(1, None))):
            entry = result.state(block, state, tokens)
            assert entry.identifiability.value == pytest.approx((1 - rank[:, part] / 3).mean())
            assert entry.rate.value == pytest.approx((rank[:, part] == 0).mean())
            assert entry.images_with_one.value == pytest.approx((rank[:, part] == 0).any(1).mean())
            assert entry.rate.images == 24
            assert entry.rate.low <= entry.rate.value <= entry.rate.high
    before = result.state(0, "block", "image").rate.value
    assert before == pytest.approx((ranks(logits["before"], split.labels) == 0)[:, 1:].mean())


def test_similarity_change_and_residual_match_are_the_direct_ones(direct):
    model, split, logits, _ = direct
    result = measured(model, split)
    own = {name: np.take_along_axis(z, split.labels[:, None, None], -1)[..., 0] for name, z in logits.items()}
    top = {name: z.argmax(-1) for name, z in logits.items()}
    for tokens, part in (("cls", slice(0, 1)), ("image", slice(1, None))):
        for branch in ("attention", "mlp"):
            (change,) = [c for c in result.changes if (c.block, c.branch, c.tokens) == (1, branch, tokens)]
            assert change.rises.value == pytest.approx((own[branch] > own["before"])[:, part].mean())
        same = {name: top[name] == top["block"] for name in ("before", "attention", "mlp")}
        same["none"] = ~(same["before"] | same["attention"] | same["mlp"])
        for source, name in (("previous", "before"), ("attention", "attention"), ("mlp", "mlp"), ("none", "none")):
            (match,) = [m for m in result.matches if (m.block, m.source, m.tokens) == (1, source, tokens)]
            assert match.matches.value == pytest.approx(same[name][:, part].mean())


def test_accuracy_is_that_of_the_logits(direct):
    model, split, _, logits = direct
    accuracy = measured(model, split).accuracy
    assert accuracy.value == pytest.approx((logits.argmax(-1) == split.labels).mean())


@pytest.mark.parametrize("changes", [{}, {"pooling": "mean", "cls_token": False}, {"heads": 3, "width": 24}])
def test_random_weights_know_nothing(changes, make_split):
    """Chance is (K + 1) / 2K on average and 1 / K at rank 0, with the labels in balance."""
    base = {"heads": 2, "image": 8, "patch": 4, "channels": 1, "width": 16, "classes": 10, "head_width": 8}
    config = uniform(2, mlp=16, **(base | changes))
    split = make_split(200, classes=10)
    estimates = []
    for seed in range(8):
        result = measured(random_weights_of(ViT(config), seed), split)
        assert result.chance == (0.55, 0.1)
        last = result.state(1, "block", "image")
        estimates.append((last.identifiability.value, last.rate.value))
    mean, rate = np.mean(estimates, axis=0)
    assert mean == pytest.approx(0.55, abs=0.02)
    assert rate == pytest.approx(0.1, abs=0.02)


def test_a_model_without_cls_has_image_tokens_only(make_model, make_split):
    result = measured(make_model(pooling="mean", cls_token=False), make_split())
    assert {state.tokens for state in result.states} == {"image"}


def test_a_pruned_branch_is_left_out(make_model, make_split):
    model = ViT(make_model().config.with_(heads=(0, 2), mlp=(6, 0)))
    result = measured(model, make_split())
    assert {(s.block, s.state) for s in result.states} == {
        (0, "embedding"),
        (0, "block"),
        (0, "mlp"),
        (1, "block"),
        (1, "attention"),
    }


def test_batches_are_small_for_large_models_and_change_nothing(make_model, make_split, monkeypatch):
    model, split = make_model(), make_split(11)
    vit_base = uniform(12, 12, 3072, image=224, patch=16, channels=3, width=768, classes=1000)
    assert batch_size(vit_base) == 27
    whole = measured(model, split)
    monkeypatch.setattr("testbed.sensitivity.class_space.stream.LARGEST_BATCH", 4)
    assert [len(batch) for batch in token_batches(model, split)] == [4, 4, 3]
    parts = measured(model, split)
    for one_batch, several in zip(whole.states, parts.states, strict=True):
        assert one_batch.rate.value == pytest.approx(several.rate.value)
        assert one_batch.rate.low == pytest.approx(several.rate.low)
