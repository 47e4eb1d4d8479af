"""The trained ViT of `foreign_campaigns` in the forms in which ONNX Runtime quantises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
from numpy.typing import NDArray

from testbed.compat.exporters import quiet
from testbed.data import load
from tests.support.exporters import calibration_of
from tests.support.file_forms import image_name
from tests.support.libraries import imported

Quantise = Callable[[Path, Path, NDArray], None]


def statically(style: str) -> Quantise:
    def quantise(source: Path, target: Path, images: NDArray) -> None:
        library = imported("onnxruntime.quantization")
        form, kinds = getattr(library.QuantFormat, style), library.QuantType
        library.quantize_static(
            str(source),
            str(target),
            calibration_of(images),
            quant_format=form,
            activation_type=kinds.QUInt8,
            weight_type=kinds.QInt8,
        )

    return quantise


def dynamically(source: Path, target: Path, images: NDArray) -> None:
    imported("onnxruntime.quantization").quantize_dynamic(source, target)


QUANTISED: dict[str, tuple[Quantise, str]] = {
    "Q/DQ": (statically("QDQ"), "uint8"),
    "operators on integers": (statically("QOperator"), "uint8"),
    "at run time": (dynamically, "fp32"),
}


def quantised(kind: str, source: Path, target: Path) -> str:
    """Writes a file quantised in one of these ways; the format of its activations."""
    quantise, dtype = QUANTISED[kind]
    proto = onnx.load(source)
    name, new = image_name(proto), "images"
    for node in proto.graph.node:
        node.input[:] = [new if tensor == name else tensor for tensor in node.input]
    proto.graph.input[0].name = new
    named = target.with_name("source.onnx")
    onnx.save(proto, named)
    with quiet():
        quantise(named, target, load("digits", image=16, seed=3).train.batch(slice(64)))
    return dtype
