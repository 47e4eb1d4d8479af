"""timm's ViT, its file, and images for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import nn

from tests.support.exporters import randomised, written
from tests.support.libraries import LIBRARIES


@pytest.fixture(scope="session")
def model() -> nn.Module:
    return randomised(LIBRARIES["timm"].model())


@pytest.fixture(scope="session")
def images() -> NDArray[np.float32]:
    return np.random.default_rng(2).standard_normal((3, 3, 16, 16)).astype(np.float32)


@pytest.fixture(scope="session")
def dynamic(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """timm's ViT as the older exporter writes it."""
    return written(model, tmp_path_factory.mktemp("adopt") / "vit.onnx", "torchscript")
