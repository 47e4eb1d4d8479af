import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss

from testbed.models.vit import ViT
from testbed.train import evaluate, logits


@pytest.fixture
def model(tiny):
    torch.manual_seed(1)
    return ViT(tiny)


def test_score_agrees_with_scikit_learn(model, digits):
    split = digits.validation
    outputs = logits(model, split).astype(np.float64)
    probabilities = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    score = evaluate(model, split, batch=7)
    assert score.accuracy == accuracy_score(split.labels, outputs.argmax(1))
    assert score.loss == pytest.approx(log_loss(split.labels, probabilities, labels=range(10)), rel=1e-6)


def test_logits_are_in_order_whatever_the_batch_and_without_dropout(model, digits):
    split = digits.validation
    model.train()
    whole = logits(model, split, batch=1000)
    assert model.training, "the mode is left as it was"
    assert whole.shape == (80, 10)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(logits(model, split, batch=7), whole, atol=1e-5)
    np.testing.assert_array_equal(logits(model, split.batch(slice(None)), batch=1000), whole)
    np.testing.assert_array_equal(logits(model, torch.from_numpy(split.batch(slice(None))), batch=1000), whole)


def test_no_images_give_no_score(model, digits):
    assert np.isnan(evaluate(model, digits.validation.subset([]))).all()
