"""A guard gives the same bits on every engine, whatever NaN, infinity or denormal it is given: those that NumPy says."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from testbed.protect.graph import GraphEditor
from testbed.protect.observe import Extremes, run_all
from testbed.protect.passes.range import NanPolicy, RangePass

LOW, HIGH = -2.0, 3.0
WORDS = {
    "fp32": [
        *(0x7FC00000, 0x7F800001, 0xFFC00000, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF),  # NaN: quiet, signalling, largest
        *(0x7F800000, 0xFF800000, 0x80000000, 0x00000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x807FFFFF),
        *(0x7F7FFFFF, 0xFF7FFFFF, 0x3F800000, 0xBF800000, 0x40400000, 0xC0000000),
    ],
    "fp16": [
        *(0x7E00, 0x7C01, 0xFE00, 0xFC01, 0x7FFF, 0xFFFF),
        *(0x7C00, 0xFC00, 0x8000, 0x0000, 0x0001, 0x8001, 0x03FF, 0x83FF),
        *(0x7BFF, 0xFBFF, 0x3C00, 0xBC00, 0x4200, 0xC000),
    ],
}
ELEMENTS = {"fp32": (TensorProto.FLOAT, np.uint32), "fp16": (TensorProto.FLOAT16, np.uint16)}


def guarded(precision: str, nan: NanPolicy) -> ModelProto:
    """x -> fp32 or fp16 -> Identity, guarded -> the same words as they are, with no arithmetic but the guard's."""
    element, _ = ELEMENTS[precision]
    size = len(WORDS[precision])
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["image"], ["site"]),
            helper.make_node("Reshape", ["site", "shape"], ["out"]),
        ],
        "guard",
        [helper.make_tensor_value_info("image", element, ["batch", size])],
        [helper.make_tensor_value_info("out", element, ["batch", size])],
        [onnx.numpy_helper.from_array(np.array([-1, size], np.int64), "shape")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    editor = GraphEditor(proto)
    assert len(editor.consumers("site")) == 1
    seen = Extremes(*(np.array([end]) for end in (LOW, HIGH, 0.0)))
    RangePass(("site",), 1.0, nan).add_guard(editor, "site", "site", seen)
    return editor.finished()


def wanted(precision: str, nan: NanPolicy) -> NDArray[Any]:
    values = np.array(WORDS[precision], ELEMENTS[precision][1]).view(np.float32 if precision == "fp32" else np.float16)
    clipped = np.minimum(np.maximum(values, values.dtype.type(LOW)), values.dtype.type(HIGH))
    return np.where(np.isnan(values), np.zeros_like(values) if nan == "zero" else values, clipped)


@pytest.mark.parametrize("nan", ["zero", "keep"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_guard_gives_the_same_bits_on_every_engine(precision: str, nan: NanPolicy) -> None:
    proto, expected = guarded(precision, nan), wanted(precision, nan)
    dtype = ELEMENTS[precision][1]
    images: NDArray[Any] = np.array(WORDS[precision], dtype).view(expected.dtype)[None]
    results = {}
    for engine in ("ort-cpu", "openvino"):
        results[engine] = run_all(proto, images, engine, precision, batch=1)["out"][0]
        out = results[engine]
        number = ~np.isnan(expected)
        np.testing.assert_array_equal(out.view(dtype)[number], expected.view(dtype)[number], engine)
        assert np.isnan(out[~number]).all(), engine
    np.testing.assert_array_equal(*(each.view(dtype) for each in results.values()))
