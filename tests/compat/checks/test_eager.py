"""The oracle of the support matrix, held against a model whose every value is known."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from testbed.compat.checks.eager import EagerModel, with_parameter
from testbed.core.fault import masks_for
from testbed.core.formats import FP32

SIGN = masks_for("flip", FP32, 31)
IMAGE = np.arange(1, 5, dtype=np.float32).reshape(1, 1, 2, 2)


class Stream(nn.Module):
    """A residual: what is added is taken by the sum and by the product."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(torch.diag(torch.tensor([1.0, 10.0, 100.0, 1000.0])))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        stream = images.flatten(1) + 0.5
        return stream + self.linear(stream)


def test_an_element_is_corrupted_for_all_that_takes_it() -> None:
    eager = EagerModel(Stream().eval(), IMAGE)
    stream = IMAGE.reshape(-1) + np.float32(0.5)
    eager.find({"stream": stream[::-1].copy()})  # in another order: it is known by its values
    first = next(eager.faulty_logits("stream", stream[1], SIGN))
    turned = stream * [1, -1, 1, 1]
    np.testing.assert_array_equal(first, turned * [2, 11, 101, 1001])
    np.testing.assert_array_equal(eager.logits(), stream * [2, 11, 101, 1001])


def test_a_tensor_that_the_model_does_not_compute_has_no_operation() -> None:
    eager = EagerModel(Stream().eval(), IMAGE)
    eager.find({"none": np.array([1, 2, 3, 5], np.float32)})
    assert eager.operations("none") == []
    assert list(eager.faulty_logits("none", np.float32(1), SIGN)) == []


def test_an_element_whose_value_others_have_is_not_taken_for_them() -> None:
    eager = EagerModel(Stream().eval(), np.full((1, 1, 2, 2), 2, np.float32))
    eager.find({"stream": np.full(4, 2.5, np.float32)})
    assert eager.operations("stream") != []
    assert list(eager.faulty_logits("stream", np.float32(2.5), SIGN)) == []


def test_attention_is_seen_inside() -> None:
    class Attends(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            tokens = images.flatten(2)
            return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).flatten(1)

    image = np.random.default_rng(0).standard_normal((1, 3, 2, 2)).astype(np.float32)
    tokens = image.reshape(3, 4)
    scores = (tokens @ tokens.T / 2).astype(np.float32)
    eager = EagerModel(Attends(), image)
    eager.find({"scores": scores})
    faulty = next(eager.faulty_logits("scores", scores[1, 1], SIGN))
    turned = scores.copy()
    turned[1, 1] *= -1
    maps = np.exp(turned) / np.exp(turned).sum(1, keepdims=True)
    np.testing.assert_allclose(faulty, (maps @ tokens).reshape(-1), rtol=1e-5)
    assert list(eager.faulty_logits("scores", scores[0, 1], SIGN)) == []  # symmetric: two elements have that value


def test_a_parameter_is_corrupted_and_restored() -> None:
    model = Stream().eval()
    values = model.linear.weight.detach().numpy().reshape(-1).copy()
    faulty = with_parameter(model, IMAGE, values, 5, SIGN)
    np.testing.assert_array_equal(faulty, (IMAGE.reshape(-1) + 0.5) * [2, -9, 101, 1001])
    np.testing.assert_array_equal(model.linear.weight.detach().numpy().reshape(-1), values)
    assert with_parameter(model, IMAGE, values + 1, 5, SIGN) is None
