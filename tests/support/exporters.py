"""ONNX files of torch models, by torch's own exporters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from testbed.compat.exporters import logits_of, quiet


def randomised(model: nn.Module) -> nn.Module:
    """Every parameter random, so that none is like another."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def written(
    model: nn.Module, file: Path, exporter: str, batch: int = 2, size: int = 16, channels: int = 3, **options: Any
) -> Path:
    """By torch's own means, with a dynamic batch unless ``batch`` is 1."""
    images = torch.zeros(batch, channels, size, size)
    if exporter == "dynamo":
        options |= {"dynamo": True, "verbose": False}
        if batch > 1:
            options["dynamic_shapes"] = ({0: torch.export.Dim("batch")},)
    else:
        options = {"dynamo": False, "input_names": ["images"], "output_names": ["logits"]} | options
        if batch > 1:
            options.setdefault("dynamic_axes", {"images": {0: "batch"}, "logits": {0: "batch"}})
    with quiet():
        torch.onnx.export(logits_of(model), (images,), str(file), **options)
    return file


def calibration_of(images: NDArray) -> Any:
    """What ONNX Runtime's static quantiser reads: these images once, as input ``images``."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        batches = iter([{"images": images}])

        def get_next(self) -> Any:
            return next(self.batches, None)

    return Reader()
