"""One small model for all tests of protection: a ViT of two blocks, as it is exported."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from testbed.export.target import export_target
from testbed.models.config import ViTConfig
from testbed.models.vit import ViT
from testbed.protect.contract import CalibrationSet

CONFIG = ViTConfig(image=8, patch=2, channels=1, width=16, classes=4, head_width=8, heads=(2, 2), mlp=(32, 32))


@pytest.fixture(scope="session")
def small_model() -> ViT:
    """Weights large enough that classes differ between images."""
    torch.manual_seed(0)
    model = ViT(CONFIG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="session")
def plain(small_model: ViT, tmp_path_factory: pytest.TempPathFactory) -> ModelProto:
    return export_target(small_model, "model", tmp_path_factory.mktemp("plain") / "model.onnx")


def some_images(count: int, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, 1, 8, 8)).astype(np.float32)


@pytest.fixture(scope="session")
def calibration() -> CalibrationSet:
    return CalibrationSet(some_images(64, 1), ("ort-cpu",), "fp32")
