"""A model, or one part of it, as a plain ONNX file in one precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from testbed.core.errors import UsageError
from testbed.core.folder.files import write_bytes
from testbed.core.formats import PRECISIONS
from testbed.core.words.nearest import unknown
from testbed.export.layout import TRANSPOSED
from testbed.export.onnx import plain_onnx
from testbed.export.precision import Calibration, cast_model, quantise
from testbed.models.subnetwork import subnetwork, target_module
from testbed.models.vit import ViT


def input_name(target: str) -> str:
    """Name of the ONNX input: images for the model, token vectors for a part of it."""
    return "image" if target == "model" else "hidden"


def target_inputs(model: ViT, target: str, images: NDArray[np.float32], batch: int = 32) -> NDArray[np.float32]:
    """What the target is fed when the model is fed ``images`` (n, C, S, S): those, or (n, N, D) token vectors."""
    if target == "model":
        return images
    seen: list[NDArray[np.float32]] = []

    def note(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(inputs[0].numpy().copy())

    handle = target_module(model, target).register_forward_pre_hook(note)
    try:
        with torch.inference_mode():
            for start in range(0, len(images), batch):
                model(torch.from_numpy(images[start : start + batch]))
    finally:
        handle.remove()
    return np.concatenate(seen)


def export_target(
    model: ViT,
    target: str,
    path: Path,
    *,
    precision: str = "fp32",
    images: NDArray[np.float32] | None = None,
    calibration: Calibration | None = None,
) -> ModelProto:
    """Writes the target's plain ONNX file and returns it.

    target: "model", "attention", "attention:N" or "block:N". int8 needs ``calibration`` and the training ``images``
    (n, C, S, S) it names. Raises UsageError for another target or precision, TestbedError as ``plain_onnx`` does.
    """
    if precision not in PRECISIONS:
        raise UsageError(unknown("precision", precision, PRECISIONS))
    module = model if target == "model" else subnetwork(model, target)
    c = model.config
    shape = (2, c.channels, c.image, c.image) if target == "model" else (2, c.tokens, c.width)
    plain = plain_onnx(module, torch.zeros(shape), input_name=input_name(target))
    if precision in ("fp16", "bf16"):
        plain = cast_model(plain, precision)
    elif precision == "int8":
        if images is None or calibration is None or not len(images):
            raise UsageError("int8 is calibrated on training images, and the model's data set has none here")
        plain = _with_layouts(plain, quantise(plain, target_inputs(model, target, images), calibration))
    write_bytes(path, plain.SerializeToString(deterministic=True))
    return plain


def _with_layouts(plain: ModelProto, quantised: ModelProto) -> ModelProto:
    """The quantiser drops the file's metadata; which weights are stored transposed is part of what the file says."""
    props = {p.key: p.value for p in plain.metadata_props if p.key == TRANSPOSED}
    onnx.helper.set_model_props(quantised, props)
    return quantised
