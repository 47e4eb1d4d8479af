"""The ways in which users write ONNX files: torch's exporter, its older one, and the names and axes of Optimum."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor, nn

    from testbed.compat.architectures.entry import Architecture

Exporter = Literal["dynamo", "torchscript", "optimum"]
EXPORTERS: tuple[Exporter, ...] = get_args(Exporter)
_BATCH = 2


def exporters_of(entry: Architecture) -> tuple[Exporter, ...]:
    """The ways in which a library's users write files: only Hugging Face's have Optimum."""
    return EXPORTERS if entry.library == "transformers" else ("dynamo", "torchscript")


def export(model: nn.Module, entry: Architecture, exporter: Exporter, file: Path) -> Path:
    """Writes the model's logits as an ONNX file with a dynamic batch. Raises whatever the exporter raises."""
    import torch

    images = torch.zeros(_BATCH, entry.channels, entry.image, entry.image)
    with quiet():
        torch.onnx.export(logits_of(model), (images,), str(file), **_options(exporter))
    return file


def _options(exporter: Exporter) -> dict[str, Any]:
    if exporter == "dynamo":
        return {"dynamo": True, "verbose": False, "dynamic_shapes": ({0: "batch"},)}
    if exporter == "torchscript":
        axes = {"images": {0: "batch"}, "logits": {0: "batch"}}
        return {"dynamo": False, "input_names": ["images"], "output_names": ["logits"], "dynamic_axes": axes}
    every = {0: "batch_size", 1: "num_channels", 2: "height", 3: "width"}  # what Optimum states for an image classifier
    axes = {"pixel_values": every, "logits": {0: "batch_size"}}
    return {"dynamo": False, "input_names": ["pixel_values"], "output_names": ["logits"], "dynamic_axes": axes}


def logits_of(model: nn.Module) -> nn.Module:
    """The model with its logits as the only output, as a file for deployment has them."""
    from torch import nn

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Tensor:
            output = self.model(images)
            logits: Tensor = getattr(output, "logits", output)
            return logits

    return Logits().eval()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporters talk a lot."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
