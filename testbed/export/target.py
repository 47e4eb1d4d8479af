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
from testbed.instrument.lean.apart import data_file, write_apart
from testbed.instrument.lean.stored import LARGEST
from testbed.models.subnetwork import subnetwork, target_module
from testbed.models.vit import ViT

_GRAPH_BYTES = 1 << 26  # more than the graph takes besides its weights


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


def is_apart(weight_bytes: int, target: str, precision: str) -> bool:
    """Whether a target's weights are exported beside its graph, as one file cannot hold them. weight_bytes: of the model, as
    float32."""
    halved = precision in ("fp16", "bf16")
    return target == "model" and weight_bytes >> halved >= LARGEST - _GRAPH_BYTES


def exported_files(file: str, apart: bool) -> list[str]:
    """Names of the files that a target is exported to."""
    return [file, data_file(file)] if apart else [file]


def export_target(
    model: ViT,
    target: str,
    path: Path,
    *,
    precision: str = "fp32",
    images: NDArray[np.float32] | None = None,
    calibration: Calibration | None = None,
) -> ModelProto:
    """Writes the target's plain ONNX file, of a large one its weights beside it (see `is_apart`), and returns it.

    target: "model", "attention", "attention:N" or "block:N". int8 needs ``calibration`` and the training ``images``
    (n, C, S, S) it names. Raises UsageError for another target or precision, and for int8 of a model of 2 GiB and more,
    TestbedError as ``plain_onnx`` does.
    """
    weight_bytes = sum(parameter.numel() * 4 for parameter in model.parameters())
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
        if is_apart(weight_bytes, target, "fp32"):
            raise UsageError(
                f"a model of {weight_bytes / 2**30:.1f} GiB is not quantised here; take fp16, or quantise an ONNX file of it"
            )
        plain = _with_layouts(plain, quantise(plain, target_inputs(model, target, images), calibration))
    if is_apart(weight_bytes, target, precision):
        write_apart(plain, path)
    else:
        write_bytes(path, plain.SerializeToString(deterministic=True))
    return plain


def _with_layouts(plain: ModelProto, quantised: ModelProto) -> ModelProto:
    """The quantiser drops the file's metadata; which weights are stored transposed is part of what the file says."""
    props = {p.key: p.value for p in plain.metadata_props if p.key == TRANSPOSED}
    onnx.helper.set_model_props(quantised, props)
    return quantised
