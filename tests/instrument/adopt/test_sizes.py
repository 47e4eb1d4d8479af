"""ONNX files whose few bytes ask for more than any memory: refused by name before an engine runs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from testbed.core.errors import UsageError
from testbed.core.process import resources
from testbed.instrument.adopt.file import adopt
from testbed.instrument.adopt.sizes import check_memory

IMAGE = ("B", 1, 8, 8)


def _file(folder: Path, nodes: Sequence[NodeProto], image: Sequence[Any] = IMAGE, **stored: Any) -> Path:
    """A classifier of one matrix, with these nodes beside it: they make c, whose sum is added to its logits."""
    stored = {"W": np.ones((64, 10), np.float32), **{name: np.asarray(value) for name, value in stored.items()}}
    around = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "W"], ["logits"]),
        *nodes,
        helper.make_node("ReduceSum", ["c"], ["sum"], keepdims=0),
        helper.make_node("Add", ["logits", "sum"], ["y"]),
    ]
    graph = helper.make_graph(
        around,
        "odd",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(image))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 10])],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "odd.onnx")
    return folder / "odd.onnx"


def _grown(op: str, *inputs: str) -> list[NodeProto]:
    return [helper.make_node(op, list(inputs), ["c"])]


@pytest.mark.parametrize(
    ("nodes", "stored"),
    [
        (_grown("ConstantOfShape", "s"), {"s": np.array([2**40])}),
        (_grown("Expand", "one", "s"), {"s": np.array([2**20, 2**20]), "one": np.ones((1, 1), np.float32)}),
        (_grown("Tile", "flat", "s"), {"s": np.array([1, 2**34])}),
        (_grown("Range", "a", "b", "d"), {"a": np.int64(0), "b": np.int64(2**40), "d": np.int64(1)}),
        (_grown("MatMul", "u", "v"), {"u": np.ones((2**21, 1), np.float32), "v": np.ones((1, 2**21), np.float32)}),
    ],
)
def test_a_tensor_that_no_memory_holds_is_named(tmp_path: Path, nodes: list[NodeProto], stored: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"odd\.onnx: its tensor 'c' needs .* TiB of memory"):
        adopt(_file(tmp_path, nodes, **stored))


@pytest.mark.parametrize("sides", [(2**20, 2**20), (2**31, 2**31), (-8, -8), (10**9, 10**9), (20_000, 20_000)])
def test_so_are_images_that_are_none(tmp_path: Path, sides: tuple[int, int]) -> None:
    file = _file(tmp_path, _grown("Identity", "logits"), ("B", 1, *sides))
    with pytest.raises(UsageError, match=rf"input 'x' declares images of \(1, {sides[0]}, {sides[1]}\)"):
        adopt(file)


def test_what_fits_is_adopted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored: dict[str, Any] = {"s": np.array([1, 100]), "one": np.ones((1, 1), np.float32)}
    file = _file(tmp_path, _grown("Expand", "one", "s"), **stored)
    assert adopt(file).plain
    monkeypatch.setattr(resources, "available_bytes", lambda: 440)  # of c's 400, nine tenths of what is free are 396
    with pytest.raises(UsageError, match="tensor 'c' needs 400 bytes"):
        adopt(file)


def test_a_batch_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proto = onnx.load(_file(tmp_path, _grown("Identity", "logits")))
    monkeypatch.setattr(resources, "available_bytes", lambda: 1000)  # of an image's 64 numbers, 256
    check_memory(proto, "odd.onnx", 3)
    with pytest.raises(UsageError, match=r"tensor 'flat' of 4 images needs 1\.0 KiB .* set a smaller engine\.batch"):
        check_memory(proto, "odd.onnx", 4)
