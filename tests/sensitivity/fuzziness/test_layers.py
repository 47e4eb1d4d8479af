"""Fuzziness of a model's layers against features recorded by hand; modes, memory, and what is refused."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from testbed.core.errors import UsageError
from testbed.data import load
from testbed.sensitivity.fuzziness.layers import layer_fuzziness, layer_names, measure_layers
from testbed.sensitivity.fuzziness.separation import separation_fuzziness, streamed_fuzziness
from testbed.train import evaluate


@pytest.fixture(scope="module")
def images():
    """More than a batch of them."""
    return load("digits").test.subset(slice(0, 150))


@pytest.fixture
def digits_model(make_model):
    def make(**changes):
        return make_model(**({"classes": 10} | changes))

    return make


def by_hand(model, split, pooled=lambda tokens: tokens[:, 0]):
    """Layer -> features of all images at once, block by block."""
    images = torch.from_numpy(split.batch(slice(None)))
    with torch.no_grad():
        found = {"pixels": images}
        tokens = model.embedded(images)
        for number, block in enumerate(model.block):
            tokens = block(tokens)
            found[f"block.{number}"] = pooled(tokens)
        return found | {"logits": model.classified(tokens)}


def of_features(features, split, **how):
    return {name: separation_fuzziness(values.numpy(), split.labels, **how) for name, values in features.items()}


@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_fuzziness_of_the_features_between_the_blocks(digits_model, images, weighted):
    model = digits_model(norm_order="post", final_norm="none", patchify="conv")
    found = layer_fuzziness(model, images, weighted=weighted)
    assert list(found) == ["pixels", "block.0", "block.1", "logits"] == layer_names(model)
    assert found == pytest.approx(of_features(by_hand(model, images), images, weighted=weighted), rel=1e-4)
    assert len(set(found.values())) == 4


@pytest.mark.parametrize(
    ("architecture", "pooled"),
    [
        ({"pooling": "mean"}, lambda tokens: tokens.mean(1)),
        ({"pooling": "mean_patches"}, lambda tokens: tokens[:, 1:].mean(1)),
        ({"pooling": "mean_patches", "cls_token": False}, lambda tokens: tokens.mean(1)),
    ],
)
def test_a_model_that_pools_is_looked_at_through_what_its_head_reads(digits_model, images, architecture, pooled):
    model = digits_model(**architecture)
    expected = of_features(by_hand(model, images, pooled), images)
    assert layer_fuzziness(model, images) == pytest.approx(expected, rel=1e-4)


def test_dropout_is_off_and_every_module_s_mode_is_put_back(digits_model, images):
    plain, dropping = digits_model(), digits_model(dropout=0.5, embed_dropout=0.5)
    dropping.load_state_dict(plain.state_dict())
    dropping.train()
    dropping.block[1].eval()
    modes = [module.training for module in dropping.modules()]
    assert layer_fuzziness(dropping, images) == layer_fuzziness(plain, images)
    assert [module.training for module in dropping.modules()] == modes
    assert not plain.training


def test_no_gradients_no_hooks_and_no_weights_are_left(digits_model, images):
    model = digits_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graded = []
    model.head.register_forward_hook(lambda module, inputs, output: graded.append(output.requires_grad))
    layer_fuzziness(model, images)
    assert graded
    assert not any(graded)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(block._forward_hooks for block in model.block)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_mode_is_put_back_after_an_error_too(digits_model, images):
    model = digits_model().train()
    with torch.no_grad():
        model.block[1].mlp.fc1.bias[0] = torch.nan
    with pytest.raises(UsageError, match=r"layer block\.1: the features hold NaN or infinity"):
        layer_fuzziness(model, images)
    assert model.training


def test_only_the_layers_asked_for_in_the_order_of_the_forward_pass(digits_model, images):
    model = digits_model()
    whole = layer_fuzziness(model, images)
    some = layer_fuzziness(model, images, layers=["logits", "pixels", "logits"])
    assert list(some.items()) == [(name, whole[name]) for name in ("pixels", "logits")]


def test_accuracy_and_loss_are_those_of_the_evaluation(digits_model, images):
    model = digits_model()
    told: list[int] = []
    found = measure_layers(model, images, advance=told.append)
    expected = evaluate(model, images)
    assert (found.accuracy, found.loss) == pytest.approx((expected.accuracy, expected.loss), rel=1e-6)
    assert (found.images, found.classes, sum(told)) == (150, 10, 300)


def test_what_cannot_be_measured_is_refused(digits_model, images):
    model = digits_model()
    with pytest.raises(UsageError, match="9 images for 10 classes"):
        layer_fuzziness(model, images.subset(slice(0, 9)))
    ones = images.subset(np.flatnonzero(images.labels == 1))
    with pytest.raises(UsageError, match=f"all {len(ones)} images are of class 1"):
        layer_fuzziness(model, ones)
    with pytest.raises(UsageError, match=r"no layer 'block\.2'; layers: pixels, block\.0, block\.1, logits"):
        layer_fuzziness(model, images, layers=["block.2"])


def test_streaming_takes_no_more_memory_than_class_means_and_a_batch():
    """5,000 samples of 3,072 numbers are 123 MB in float64; what is kept is a few matrices of classes x features."""
    classes, width, samples, batch = 10, 3072, 5000, 100

    def batches():
        for start in range(0, samples, batch):
            rng = np.random.default_rng(start)
            labels = np.arange(start, start + batch) % classes
            yield rng.standard_normal((batch, width), np.float32) + labels[:, None] / 10, labels

    tracemalloc.start()
    try:
        value = streamed_fuzziness(batches)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.isfinite(value)
    assert peak < 25e6


def test_the_measures_are_functions_of_the_package(images):
    import testbed.sensitivity as package

    assert callable(package.separation_fuzziness)
    assert callable(package.acdc)
    assert callable(package.eap)
    assert isinstance(package.separation_fuzziness(images.batch(slice(None)), images.labels), float)
