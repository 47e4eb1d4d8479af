"""Files that no engine can run as they ask: the line says whether it is the images, the outputs, the operators or memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper

from testbed.core.errors import EngineError, TestbedError, UsageError
from testbed.core.words.text import visible
from testbed.instrument.adopt.file import adopt, adopt_lean
from testbed.instrument.lean import stored
from testbed.instrument.shapes import per_image
from tests.support.exporters import randomised, written
from tests.support.libraries import timm_model
from tests.support.onnx_files import by_hand, file_of


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """timm's, for 3 channels of 16 x 16."""
    return written(randomised(timm_model()), tmp_path_factory.mktemp("unrunnable") / "vit.onnx", "torchscript")


@pytest.mark.parametrize(("axis", "size"), [(1, 1), (2, 32)])
def test_images_that_the_model_was_not_built_for(axis: int, size: int, vit: Path, tmp_path: Path) -> None:
    proto = onnx.load(vit)
    proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size
    onnx.save(proto, tmp_path / "vit.onnx")
    declared = ", ".join(str(size if axis == place else n) for place, n in enumerate((3, 16, 16), 1))
    with pytest.raises(
        UsageError, match=rf"does not run on images of \({declared}\), as its input declares them: .*"
    ) as raised:
        adopt(tmp_path / "vit.onnx")
    assert str(raised.value).endswith("export it again, for images of the channels and size that it was built for")
    assert "dynamic" not in str(raised.value)


def in_sequence(proto: onnx.ModelProto, alone: bool) -> onnx.ModelProto:
    name = proto.graph.output[0].name
    proto.graph.node.append(helper.make_node("SequenceConstruct", [name, name], ["both"]))
    if alone:
        del proto.graph.output[:]
    proto.graph.output.append(helper.make_tensor_sequence_value_info("both", TensorProto.FLOAT, None))
    return proto


def test_outputs_that_are_no_tensors_are_named(vit: Path, tmp_path: Path) -> None:
    onnx.save(in_sequence(onnx.load(vit), alone=True), tmp_path / "vit.onnx")
    with pytest.raises(
        UsageError, match=r"none of the model's outputs is a tensor: 'both' \(sequence\); export it with"
    ):
        adopt(tmp_path / "vit.onnx")


def test_beside_a_tensor_they_do_no_harm(vit: Path, tmp_path: Path) -> None:
    onnx.save(in_sequence(onnx.load(vit), alone=False), tmp_path / "vit.onnx")
    beside = per_image(onnx.load_from_string(adopt(tmp_path / "vit.onnx").plain))
    assert beside == per_image(onnx.load(vit))


def test_operators_that_no_engine_knows_are_told_by_their_domain(tmp_path: Path) -> None:
    nodes = [helper.make_node("Frob", ["x"], ["f"], domain="com.acme"), helper.make_node("Relu", ["f"], ["y"])]
    with pytest.raises(
        TestbedError, match=r"has operators of com\.acme, and ONNX Runtime does not take them \(.*Frob"
    ) as raised:
        adopt(file_of(tmp_path, by_hand(nodes)))
    assert str(raised.value).endswith("export it in ONNX's own operators")
    assert visible(str(raised.value)) == str(raised.value)


def test_a_file_whose_types_disagree_says_what_to_do(tmp_path: Path) -> None:
    """As a converter to fp16 leaves a Cast that it overlooked."""
    nodes = [helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT), helper.make_node("Relu", ["h"], ["y"])]
    proto = onnx.load_from_string(by_hand(nodes))
    proto.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT16, ["b", 4]))
    with pytest.raises(
        EngineError, match=r"Type Error.*; convert or export the file again, so that ONNX Runtime takes it$"
    ):
        per_image(onnx.load_from_string(adopt(file_of(tmp_path, proto.SerializeToString())).plain))


def greedy() -> list[NodeProto]:
    """40 TB, of a size that no shape says."""
    return [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Mul", ["s", "nothing"], ["z"]),
        helper.make_node("Add", ["z", "many"], ["m"]),
        helper.make_node("Cast", ["m"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Unsqueeze", ["whole", "first"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["c"]),
        helper.make_node("ReduceSum", ["c"], ["t"], keepdims=0),
        helper.make_node("Add", ["x", "t"], ["y"]),
    ]


@pytest.mark.parametrize("batch", ["b", 1])
def test_a_run_that_memory_does_not_hold_is_no_verdict_on_the_file(batch: str | int, tmp_path: Path) -> None:
    stored_numbers = {"nothing": np.array(0, np.float32), "many": np.array(1e13, np.float32), "first": np.array([0])}
    with pytest.raises(
        TestbedError, match=r"a trial run of the model on \d images? needs more memory than there is"
    ) as raised:
        per_image(onnx.load_from_string(adopt(file_of(tmp_path, by_hand(greedy(), batch, **stored_numbers))).plain))
    assert "dynamic" not in str(raised.value)
    assert "2 GiB" not in str(raised.value)


def test_a_fixed_batch_past_what_is_rewritten_is_run_image_by_image(
    vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that are not held in one piece are no reason to refuse the file."""
    proto = onnx.load(written(randomised(timm_model(mlp_ratio=16.0)), tmp_path / "wide.onnx", "torchscript"))
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    reshapes = [node for node in proto.graph.node if node.op_type == "Reshape"]
    assert reshapes
    onnx.save(proto, tmp_path / "wide.onnx")
    monkeypatch.setattr(stored, "LARGEST", 10_000)
    lean = adopt_lean(tmp_path / "wide.onnx")
    assert any(
        "cannot be made dynamic: one image, and one fault, is run at a time" in change for change in lean.changes
    )
    assert lean.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
