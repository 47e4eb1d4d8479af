import numpy as np
import pytest
import torch
from torch import nn

from testbed.core.errors import UsageError
from testbed.sensitivity.class_space.projection import ClassProjection, class_identifiability, true_logits, true_ranks
from testbed.sensitivity.class_space.recorder import recorded


def test_the_last_blocks_cls_token_projects_to_the_logits(make_model):
    model = make_model()
    images = torch.randn(4, 1, 8, 8)
    with recorded(model) as recorder, torch.inference_mode():
        *_, last = recorder.blocks(recorder.embed(images))
        torch.testing.assert_close(ClassProjection.of(model)(last.residual_out)[:, 0], model(images))


def test_ranks_are_positions_in_a_stable_sort():
    generator = np.random.default_rng(0)
    logits = generator.integers(0, 4, (6, 5, 7)).astype(np.float32)  # with many ties
    labels = generator.integers(0, 7, 6)
    order = np.argsort(-logits, axis=-1, kind="stable")
    wanted = np.argmax(order == labels[:, None, None], axis=-1)
    ranks = true_ranks(torch.from_numpy(logits), torch.from_numpy(labels))
    assert ranks.numpy().tolist() == wanted.tolist()
    picked = np.stack([logits[image, :, label] for image, label in enumerate(labels)])
    assert true_logits(torch.from_numpy(logits), torch.from_numpy(labels)).numpy().tolist() == picked.tolist()


def test_identifiability_is_1_for_the_best_and_nothing_for_nan():
    logits = torch.tensor([[[3.0, 1, 2, 0], [0, 1, 2, 3], [float("nan"), 0, 0, 0]]])
    ranks = true_ranks(logits, torch.tensor([0]))
    assert ranks.tolist() == [[0, 3, 4]]
    assert class_identifiability(ranks, 4).tolist() == [[1.0, 0.25, 0.0]]


def test_models_without_classes_to_tell_apart_are_refused(make_model):
    model = make_model()
    model.head = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))
    with pytest.raises(UsageError, match="Sequential, not one linear layer"):
        ClassProjection.of(model)
    with pytest.raises(UsageError, match="one class"):
        ClassProjection.of(make_model(classes=1))
