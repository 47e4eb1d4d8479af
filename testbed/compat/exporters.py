"""The ways in which users write ONNX files: torch's exporter, its older one, and the names and axes of Optimum."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from testbed.core.errors import first_line

if TYPE_CHECKING:
    from torch import Tensor, nn

    from testbed.compat.architectures.entry import Architecture

Exporter = Literal["dynamo", "torchscript", "optimum"]
EXPORTERS: tuple[Exporter, ...] = get_args(Exporter)
_BATCH = 2
_CLOSE = 1e-3  # of the largest logit


def exporters_of(entry: Architecture) -> tuple[Exporter, ...]:
    """The ways in which a library's users write files: only Hugging Face's have Optimum."""
    return EXPORTERS if entry.library == "transformers" else ("dynamo", "torchscript")


def export(model: nn.Module, entry: Architecture, exporter: Exporter, file: Path) -> Path:
    """Writes the model's logits as an ONNX file with a dynamic batch.

    Raises whatever the exporter raises, and ValueError for a file that does not give the model's logits.
    """
    import torch

    images = torch.zeros(_BATCH, entry.channels, entry.image, entry.image)
    with quiet():
        torch.onnx.export(logits_of(model), (images,), str(file), **_options(exporter))
        _check_logits(
            model, file, torch.randn(_BATCH + 1, *images.shape[1:], generator=torch.Generator().manual_seed(0))
        )
    return file


def _check_logits(model: nn.Module, file: Path, images: Tensor) -> None:
    """Run the file on another number of images than it was traced with, as whoever exports does first."""
    import numpy as np
    import onnxruntime as ort
    import torch

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    try:
        (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    except Exception as error:
        raise ValueError(f"the file runs with the batch alone that it was traced with ({first_line(error)})") from None
    with torch.no_grad():
        wanted = logits_of(model)(images).numpy()
    if not np.allclose(logits, wanted, rtol=_CLOSE, atol=_CLOSE * np.abs(wanted).max()):
        raise ValueError("the file does not give the model's logits")


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
    """Keeps libraries from talking: the exporters do a lot, in Python and, past it, on the process's own output."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            _silent(1),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def _silent(descriptor: int) -> Iterator[None]:
    """Sends what is written to a file descriptor nowhere. Nothing to do where it is closed."""
    try:
        kept = os.dup(descriptor)
    except OSError:
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, descriptor)
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)
        os.close(nowhere)
