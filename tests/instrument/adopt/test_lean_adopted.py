"""What is asked of an adopted file is asked of a model without its weights, and that is the same model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from testbed.instrument.adopt.file import Adopted, adopt, adopt_lean
from testbed.instrument.adopt.judged import judged
from testbed.instrument.lean.stored import loaded
from tests.support.onnx_files import by_hand, file_of

WIDE = np.random.default_rng(0).standard_normal((4, 5000)).astype(np.float32)
BACK = np.ascontiguousarray(WIDE.T)


def wide_file(*last: onnx.NodeProto, output: str = "z") -> bytes:
    products = [helper.make_node("MatMul", ["x", "wide"], ["w"]), helper.make_node("MatMul", ["w", "back"], [output])]
    return by_hand([*products, *last], wide=WIDE, back=BACK)


def same_model(adopted: Adopted) -> bool:
    return loaded(adopted.proto).SerializeToString(deterministic=True) == onnx.load_from_string(
        adopted.plain
    ).SerializeToString(deterministic=True)


@pytest.mark.parametrize("beside", [False, True])
def test_the_model_without_its_weights_is_the_adopted_file(tmp_path: Path, beside: bool) -> None:
    file = file_of(tmp_path, wide_file(output="y"))
    if beside:
        onnx.save(onnx.load(file), file, save_as_external_data=True, location="weights.bin", size_threshold=0)
    adopted = adopt(file)
    assert bool(adopted.changes) == beside
    assert len(adopted.plain) > 2 * WIDE.nbytes
    assert adopted.proto.ByteSize() < 2000
    assert same_model(adopted)


def test_what_a_campaign_cuts_off_is_cut_off_both(tmp_path: Path) -> None:
    file = file_of(tmp_path, wide_file(helper.make_node("Softmax", ["z"], ["y"])))
    cut = judged(adopt_lean(file), str(file), 4).with_weights("model.data")
    assert any("Softmax" in change for change in cut.changes)
    assert cut.proto.ByteSize() < 2000
    assert same_model(cut)
    assert [node.op_type for node in onnx.load_from_string(cut.plain).graph.node] == ["MatMul", "MatMul"]


def test_without_a_lean_model_the_content_is_read() -> None:
    plain = wide_file(output="y")
    assert Adopted(plain, ()).proto == onnx.load_from_string(plain)
    assert Adopted(plain, ()).proto.graph.initializer[0].data_type == TensorProto.FLOAT
