"""Exports of the models that TensorRT is given."""

from __future__ import annotations

import onnx
import pytest
import torch

from testbed.export.onnx import export_onnx
from testbed.models.subnetwork import subnetwork
from testbed.models.vit import ViT
from tests.support.tensorrt_models import IMAGES, MODELS, Exported


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Plain ONNX of one of MODELS, or of the first one's attention."""
    made: dict[str, onnx.ModelProto] = {}

    def export(name: str) -> onnx.ModelProto:
        if name not in made:
            torch.set_num_threads(1)
            torch.manual_seed(0)
            attention = name == "attention"
            model = ViT(MODELS["pre-norm" if attention else name]).eval()
            example = torch.randn(2, 5, 8) if attention else torch.from_numpy(IMAGES[:2])
            file = tmp_path_factory.mktemp("onnx") / "plain.onnx"
            target = subnetwork(model, "attention") if attention else model
            made[name] = export_onnx(target, example, file, input_name="hidden" if attention else "image")
        return made[name]

    return export


@pytest.fixture
def model(exported: Exported) -> bytes:
    return exported("pre-norm").SerializeToString()
