"""Files that are not ONNX say what they are and what to do; each is written by the library whose format it is."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper

from testbed.core.errors import TestbedError
from testbed.instrument.adopt.file import adopt

WEIGHTS = {"head.weight": torch.zeros(3, 2)}


def small() -> bytes:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "small", [x], [y])
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    ).SerializeToString()
    return content


def in_onnx_runtimes_format(path: Path) -> None:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(small(), options)


def in_openvinos_format(path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    (path.parent / "small.onnx").write_bytes(small())
    openvino.save_model(openvino.convert_model(path.parent / "small.onnx"), path.with_suffix(".xml"))
    path.with_suffix(".xml").rename(path)


IMPORT = r"not ONNX: import the weights it holds \(testbed import .* --run DIR\)"
KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "torch.save": (lambda path: torch.save(WEIGHTS, path), f"is a PyTorch file or another archive, {IMPORT}"),
    "torch.save, older": (lambda path: torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False), IMPORT),
    "safetensors": (lambda path: safetensors.torch.save_file(WEIGHTS, path), f"is a safetensors file, {IMPORT}"),
    "NumPy": (lambda path: path.write_bytes(np.zeros(3).tobytes()), "is not ONNX, or is cut off"),
    "ONNX Runtime": (in_onnx_runtimes_format, r"ONNX Runtime's own format \(.ort\), .*export the original model"),
    "OpenVINO": (in_openvinos_format, r"is an OpenVINO model \(IR\), .*export the original model to ONNX"),
    "packed": (lambda path: path.write_bytes(gzip.compress(small())), "is compressed with gzip; unpack it first"),
    "download": (lambda path: path.write_text("<html>404"), "is a web page, not ONNX"),
    "LFS": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "pointer.*git lfs pull"),
    "nothing": (lambda path: path.touch(), r"is empty \(a failed download\?\)"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_kind_says_what_it_is(tmp_path: Path, kind: str) -> None:
    make, told = KINDS[kind]
    make(tmp_path / "vit.onnx")
    with pytest.raises(TestbedError, match=told) as refused:
        adopt(tmp_path / "vit.onnx")
    assert "\n" not in str(refused.value)


def test_an_onnx_file_is_none_of_them(tmp_path: Path) -> None:
    (tmp_path / "vit.onnx").write_bytes(small())
    assert adopt(tmp_path / "vit.onnx").plain == small()
