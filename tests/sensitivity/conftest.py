"""Small models with weights that matter, and images to look at them with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from testbed.models.config import uniform
from testbed.models.vit import ViT
from testbed.sensitivity.circuits.analysis_set import AnalysisSet
from tests.support.three_classes import images_of_three_classes

torch.set_num_threads(1)


@pytest.fixture
def make_model() -> Callable[..., ViT]:
    def make(**changes: Any) -> ViT:
        base = {"depth": 2, "heads": 2, "mlp": 6, "image": 8, "patch": 4, "channels": 1, "width": 8, "classes": 3}
        torch.manual_seed(0)
        model = ViT(uniform(**(base | {"head_width": 4} | changes))).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return model

    return make


@pytest.fixture
def analysis() -> AnalysisSet:
    return images_of_three_classes()
