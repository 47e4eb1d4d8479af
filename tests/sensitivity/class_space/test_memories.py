import itertools

import numpy as np
import pytest
import torch
from scipy.stats import wilcoxon
from statsmodels.stats.multitest import multipletests

from testbed.sensitivity.class_space.memories import (
    KeyValueObserver,
    chance_agreement,
    class_value_agreement,
    top_memories,
)
from testbed.sensitivity.class_space.stream import observe
from testbed.sensitivity.class_space.study import random_weights_of
from tests.support.site_tensors import site_tensors


@pytest.fixture
def model(make_model):
    return make_model(classes=7, mlp=40, heads=4)


def cosines(model, weight):
    classes = model.head.weight.detach().double().numpy()
    values = weight.detach().double().numpy()
    return (classes / np.linalg.norm(classes, axis=1, keepdims=True)) @ (values / np.linalg.norm(values, axis=0))


def test_class_value_agreement_is_the_largest_cosine_with_scipys_test(model):
    random = random_weights_of(model, 1)
    layers = class_value_agreement(model, random)
    assert [(layer.block, layer.branch) for layer in layers] == list(itertools.product((0, 1), ("attention", "mlp")))
    for layer in layers:
        weight = f"block.{layer.block}.{'mlp.fc2' if layer.branch == 'mlp' else 'attn.proj'}.weight"
        own, other = (cosines(m, dict(m.named_parameters())[weight]) for m in (model, random))
        assert layer.per_class == pytest.approx(own.max(1))
        assert layer.mean == pytest.approx(own.max(1).mean())
        assert layer.random_mean == pytest.approx(other.max(1).mean())
        assert layer.p_value == pytest.approx(wilcoxon(own.max(1), other.max(1), alternative="greater").pvalue)
        assert layer.memories == own.shape[1]
    holm = multipletests([layer.p_value for layer in layers], method="holm")[1]
    assert [layer.p_holm for layer in layers] == pytest.approx(holm)


def test_values_made_of_classes_are_told_from_random_ones(model):
    with torch.no_grad():
        model.block[1].mlp.fc2.weight[:, :7] = 3 * model.head.weight.T
    agreement = class_value_agreement(model, random_weights_of(model, 1))[-1]
    assert agreement.per_class == pytest.approx(np.ones(7))
    assert agreement.p_value < 0.01
    top = top_memories(model)[-1]
    assert top.memories[:, 0].tolist() == list(range(7))
    assert top.class_of_memory[:7].tolist() == list(range(7))
    assert top.cosines[:, 0] == pytest.approx(np.ones(7))


def test_equal_weights_differ_in_nothing(model):
    assert {layer.p_value for layer in class_value_agreement(model, model)} == {1.0}


def test_key_value_agreement_is_that_of_sets(model, make_split):
    split = make_split(14, classes=7)
    observer = KeyValueObserver(model)
    observe(model, split, [observer])
    seen = site_tensors(model, torch.from_numpy(split.batch(slice(None))))
    for row in observer.result():
        name, layer = ("mlp.gelu", "mlp.fc2") if row.branch == "mlp" else ("attn.context", "attn.proj")
        keys = seen[f"block.{row.block}.{name}"]
        weight = dict(model.named_parameters())[f"block.{row.block}.{layer}.weight"].detach().numpy()
        products = model.head.weight.detach().numpy() @ weight
        agreed = []
        for image, label in enumerate(split.labels):
            best = set(np.argsort(-products[label])[:5])
            tokens = range(1) if row.tokens == "cls" else range(1, 5)
            agreed.append(np.mean([bool(best & set(np.argsort(-keys[image, token])[:5])) for token in tokens]))
        assert row.agreement.value == pytest.approx(np.mean(agreed))
        assert row.agreement.images == 14


def test_chance_is_the_hypergeometric_one():
    rng = np.random.default_rng(0)
    draws = np.array([rng.permutation(40)[:5] for _ in range(20_000)])
    assert chance_agreement(40) == pytest.approx((draws < 5).any(1).mean(), abs=0.01)
    assert chance_agreement(9) == 1.0
    assert 0 < chance_agreement(3072) < 0.01
