from dataclasses import replace

import numpy as np
import pytest
import torch

from testbed.core.errors import TestbedError, UsageError
from testbed.models.vit import ViT
from testbed.train import evaluate, train
from testbed.train.batches import training_batches


def test_it_learns_and_says_so(tiny, digits, quick):
    trained = train(tiny, digits, quick.with_(epochs=30, learning_rate=1e-2), seed=0)
    first, last = trained.curves[0], trained.curves[-1]
    assert [record.epoch for record in trained.curves] == list(range(1, 31))
    assert last.train_loss < first.train_loss
    assert last.train_accuracy > first.train_accuracy
    assert evaluate(trained.model, digits.test).accuracy > 0.3
    assert not trained.model.training


def test_the_seed_decides_every_bit(tiny, digits, quick, same):
    first = train(tiny, digits, quick, seed=3)
    torch.manual_seed(99)
    torch.rand(5)
    assert same(first, train(tiny, digits, quick, seed=3))
    assert not same(first, train(tiny, digits, quick, seed=4))


def test_every_recipe_key_reaches_the_training(tiny, digits, quick, weights):
    reference = train(tiny, digits, quick.with_(epochs=2, select="last"), seed=0)
    changes = {
        "batch": 50,
        "optimiser": "sgd",
        "learning_rate": 1e-3,
        "weight_decay": 0.5,
        "schedule": "constant",
        "warmup_epochs": 1,
        "label_smoothing": 0.0,
        "augmentation": "none",
        "input_noise": 0.5,
        "clip_norm": 0.01,
    }
    for key, value in changes.items():
        changed = train(tiny, digits, quick.with_(epochs=2, select="last", **{key: value}), seed=0)
        assert not torch.equal(weights(changed.model), weights(reference.model)), key


def test_nothing_of_the_process_is_changed(tiny, digits, quick):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        before = torch.random.get_rng_state()
        train(tiny, digits, quick.with_(epochs=1), seed=0, threads=1)
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.random.get_rng_state(), before)

        def failing(epoch, model, record):
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            train(tiny, digits, quick, seed=0, callbacks=[failing])
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.random.get_rng_state(), before)
    finally:
        torch.set_num_threads(threads)


def test_zero_epochs_are_seeded_initial_weights(tiny, digits, quick, weights, same):
    empty = digits.train.subset([])
    test_only = replace(digits, train=empty, validation=empty)
    first, again = (train(tiny, test_only, quick.with_(epochs=0), seed=5) for _ in range(2))
    assert same(first, again)
    assert (first.curves, first.best_epoch) == ([], 0)
    assert not torch.equal(weights(first.model), weights(train(tiny, test_only, quick.with_(epochs=0), seed=6).model))
    with pytest.raises(UsageError, match="no training images; only 0 epochs"):
        train(tiny, test_only, quick, seed=5)


def test_best_is_by_validation_and_is_a_copy(tiny, digits, quick, weights):
    """The kept weights are those of the chosen epoch, though training went on and destroyed them."""
    seen = {}

    def watch(epoch, model, record):
        seen[epoch] = weights(model).clone()

    unstable = quick.with_(epochs=8, learning_rate=0.2, schedule="constant", clip_norm=0, optimiser="sgd")
    trained = train(tiny, digits, unstable, seed=1, callbacks=[watch])
    ranks = [(record.validation_accuracy, -record.validation_loss) for record in trained.curves]
    assert trained.best_epoch == 1 + ranks.index(max(ranks))
    assert trained.best_epoch < 8, "the case must have a best epoch before the last"
    assert torch.equal(weights(trained.model), seen[trained.best_epoch])
    best = trained.curves[trained.best_epoch - 1]
    assert evaluate(trained.model, digits.validation) == (best.validation_accuracy, best.validation_loss)

    last = train(tiny, digits, unstable.with_(select="last"), seed=1)
    assert last.best_epoch == 8
    assert torch.equal(weights(last.model), seen[8])


def test_the_test_images_are_never_looked_at(tiny, digits, quick):
    class Forbidden:
        def __getattr__(self, name):
            raise AssertionError(f"training touched the test split: {name}")

    train(tiny, replace(digits, test=Forbidden()), quick.with_(epochs=1), seed=0)


def test_callbacks_get_the_epoch_the_evaluated_model_and_the_record(tiny, digits, quick, same):
    calls = []

    def watch(epoch, model, record):
        torch.rand(3)  # a callback's own use of the generators must not change the training
        calls.append((epoch, model.training, isinstance(model, ViT), record))

    trained = train(tiny, digits, quick, seed=0, callbacks=[watch])
    assert [call[:3] for call in calls] == [(epoch, False, True) for epoch in (1, 2, 3, 4)]
    assert [call[3] for call in calls] == trained.curves
    assert same(trained, train(tiny, digits, quick, seed=0))


def test_a_loss_that_is_not_finite_says_what_to_lower(tiny, digits, quick):
    exploding = quick.with_(learning_rate=1e30, optimiser="sgd", clip_norm=0)
    with pytest.raises(TestbedError, match=r"loss of epoch \d is (nan|inf); lower learning_rate \(it is 1e\+30\)"):
        train(tiny, digits, exploding, seed=0)


def test_weights_that_overflow_after_the_last_batch_are_noticed(tiny, digits, quick):
    one_batch = quick.with_(learning_rate=1e37, weight_decay=1e3, optimiser="sgd", batch=200, epochs=1, select="last")
    with pytest.raises(TestbedError, match="the validation loss of epoch 1 is nan; lower learning_rate"):
        train(tiny, digits, one_batch, seed=0)
    without = replace(digits, validation=digits.validation.subset([]))
    with pytest.raises(TestbedError, match=r"the largest weight of epoch 1 is (inf|nan); lower learning_rate"):
        train(tiny, without, one_batch, seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 100}, "the model's classes is 100, data set 'digits' has 10"),
        ({"image": 16}, "the model's image is 16, data set 'digits' has 8"),
        ({"channels": 3}, "the model's channels is 3, data set 'digits' has 1"),
    ],
)
def test_a_model_of_another_shape_is_refused(tiny, digits, quick, change, message):
    with pytest.raises(UsageError, match=message):
        train(tiny.with_(**change), digits, quick, seed=0)


def test_what_cannot_be_done_is_told_first(tiny, digits, quick):
    with pytest.raises(UsageError, match="unknown augmentation 'mixup'"):
        train(tiny, digits, quick.with_(augmentation="mixup"), seed=0)
    with pytest.raises(UsageError, match="unknown device 'gpu'"):
        train(tiny, digits, quick, seed=0, device="gpu")
    nothing = replace(digits, validation=digits.validation.subset([]))
    with pytest.raises(UsageError, match="no validation images to select by; set select=last"):
        train(tiny, nothing, quick, seed=0)
    assert np.isnan(train(tiny, nothing, quick.with_(select="last", epochs=1), seed=0).curves[0].validation_loss)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
def test_without_a_gpu_cuda_is_refused(tiny, digits, quick):
    with pytest.raises(UsageError, match="PyTorch sees no CUDA GPU"):
        train(tiny, digits, quick, seed=0, device="cuda")


def test_an_epoch_is_every_image_once_in_an_order_of_its_own(digits, quick):
    split = digits.train
    plain = quick.with_(augmentation="none", input_noise=0.0, batch=64)

    def epoch(number):
        batches = list(training_batches(split, plain, seed=0, epoch=number))
        assert [len(labels) for _, labels in batches] == [64, 64, 64, 8]
        return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])

    (images, labels), (others, _) = epoch(1), epoch(2)
    stored = torch.from_numpy(split.batch(slice(None)))
    positions = torch.tensor([int((stored == image).flatten(1).all(1).nonzero()[0, 0]) for image in images])
    assert sorted(positions.tolist()) == list(range(200))
    assert labels.tolist() == split.labels[positions].tolist()
    assert not torch.equal(images, others)
    assert torch.equal(images, epoch(1)[0])


def test_input_noise_has_the_stated_deviation(digits, quick):
    def images(noise):
        noisy = quick.with_(augmentation="none", input_noise=noise)
        return torch.cat([images for images, _ in training_batches(digits.train, noisy, seed=0, epoch=1)])

    difference = images(0.5) - images(0.0)
    assert difference.std().item() == pytest.approx(0.5, rel=0.03)
    assert difference.mean().item() == pytest.approx(0, abs=0.02)
