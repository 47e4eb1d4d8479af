"""Models whose weights stay on disk are the same models. Oracle: onnx, which holds them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from testbed.core.errors import TestbedError
from testbed.instrument.adopt.file import adopt, adopt_lean
from testbed.instrument.lean.read import outline, read_model
from testbed.instrument.lean.stored import loaded, size_of, stored_of
from testbed.instrument.lean.write import model_sha256, write_model
from testbed.instrument.ports.insertion import instrument
from testbed.instrument.shapes import input_name, output_name
from testbed.instrument.table import site_table
from testbed.instrument.twin import make_twin
from tests.support.exporters import randomised, written
from tests.support.libraries import timm_model

LARGE, SMALL = (96, 128), (3, 5)


def model(doc: bool = False) -> ModelProto:
    """x (b, 96) -> x @ w + b, of numbers of several formats, large and small."""
    rng = np.random.default_rng(0)
    arrays: dict[str, NDArray[Any]] = {
        "w": rng.standard_normal(LARGE).astype(np.float32),
        "b": rng.standard_normal(128).astype(np.float32),
        "half": rng.standard_normal(LARGE).astype(np.float16),
        "whole": rng.integers(-128, 128, LARGE).astype(np.int8),
        "small": rng.standard_normal(SMALL).astype(np.float32),
    }
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["b", size]) for n, size in (("x", 96), ("y", 128)))
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(a, n) for n, a in arrays.items()])
    graph.initializer.append(
        helper.make_tensor("listed", TensorProto.FLOAT, LARGE, arrays["w"].reshape(-1))
    )  # no raw bytes
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10, producer_name="by hand")
    if doc:
        for tensor in made.graph.initializer:
            tensor.doc_string = f"of {tensor.name}"
        helper.set_model_props(made, {"author": "somebody"})
    return made


@pytest.mark.parametrize("doc", [False, True])
def test_a_file_is_read_without_its_large_weights_and_written_byte_for_byte(tmp_path: Path, doc: bool) -> None:
    whole = model(doc).SerializeToString(deterministic=True)
    (tmp_path / "m.onnx").write_bytes(whole)
    lean, beside = read_model(tmp_path / "m.onnx")
    assert not beside
    assert {t.name for t in lean.graph.initializer if stored_of(t)} == {"w", "half", "whole"}
    assert abs(size_of(lean) - len(whole)) < 1000
    assert loaded(lean).SerializeToString(deterministic=True) == whole
    digest = write_model(lean, tmp_path / "copy.onnx")
    assert (tmp_path / "copy.onnx").read_bytes() == whole
    assert digest == model_sha256(lean) == hashlib.sha256(whole).hexdigest()


def test_the_outline_of_a_model_is_the_model_but_for_the_numbers_of_large_weights() -> None:
    whole = model(doc=True)
    outlined = outline(whole.SerializeToString())
    emptied = []
    for stored, kept in zip(whole.graph.initializer, outlined.graph.initializer, strict=True):
        if kept.raw_data != stored.raw_data:
            assert not kept.raw_data
            kept.raw_data = stored.raw_data
            emptied.append(kept.name)
    assert emptied == ["w", "half", "whole"]
    assert outlined == whole
    assert (input_name(whole.SerializeToString()), output_name(whole.SerializeToString())) == ("x", "y")


def test_weights_beside_a_file_are_streamed_as_onnx_takes_them_in(tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    lean, beside = read_model(tmp_path / "m.onnx")
    assert beside
    write_model(lean, tmp_path / "one.onnx")
    assert (tmp_path / "one.onnx").read_bytes() == onnx.load(tmp_path / "m.onnx").SerializeToString(deterministic=True)


@pytest.mark.parametrize("beside", [False, True])
def test_the_twin_of_a_lean_model_is_that_of_the_whole(tmp_path: Path, beside: bool) -> None:
    large = timm_model(mlp_ratio=16.0)  # of maps of 16,384 numbers
    file = written(randomised(large), tmp_path / "vit.onnx", "torchscript")
    if beside:
        onnx.save(onnx.load(file), file, save_as_external_data=True, location="vit.data", size_threshold=0)
    made = make_twin(file, tmp_path / "twin", ("*",), "gated_replace")
    plain = adopt(file).plain
    table = site_table(plain, file.stem)
    assert made.deployment_id == table.deployment_id
    assert Path(made.plain).read_bytes() == plain
    assert Path(made.twin).read_bytes() == instrument(plain, table).SerializeToString(deterministic=True)


def test_a_file_that_changes_while_it_is_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(model().SerializeToString())
    lean, _ = read_model(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_bytes(b"")
    with pytest.raises(TestbedError, match=r"m\.onnx was cut off while it was read"):
        loaded(lean)


def past_two_gigabytes(folder: Path) -> Path:
    """A graph of few operators by a weight of 2.2 GiB, which is a hole on disk."""
    rows = 9_300_000
    proto = model()
    table = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=[rows, 64])
    table.data_location = TensorProto.EXTERNAL
    table.external_data.add(key="location", value="table.data")
    proto.graph.initializer.append(table)
    proto.graph.initializer.append(numpy_helper.from_array(np.array([rows - 1]), "last"))
    proto.graph.node.append(helper.make_node("Gather", ["table", "last"], ["row"]))
    onnx.save(proto, folder / "big.onnx")
    with open(folder / "table.data", "wb") as file:
        file.truncate(rows * 64 * 4)
    return folder / "big.onnx"


def test_a_model_past_two_gigabytes_is_read_and_not_taken_in(tmp_path: Path) -> None:
    file = past_two_gigabytes(tmp_path)
    lean = adopt_lean(file)
    assert size_of(lean.proto) > 2**31
    with pytest.raises(TestbedError, match=r"big\.onnx holds 2\.2 GiB with its weights; larger than 2 GiB"):
        adopt(file)


def weights_of(lean: ModelProto) -> dict[str, str]:
    """Hash of each weight that is on disk."""
    hashes = {}
    for tensor in lean.graph.initializer:
        if (stored := stored_of(tensor)) is not None:
            digest = hashlib.sha256()
            for chunk in stored.chunks():
                digest.update(chunk)
            hashes[tensor.name] = digest.hexdigest()
    return hashes


@pytest.mark.slow
def test_it_is_written_with_its_weights_beside_it(tmp_path: Path, session: Any) -> None:
    lean, _ = read_model(past_two_gigabytes(tmp_path))
    write_model(lean, tmp_path / "copy" / "big.onnx")
    assert (tmp_path / "copy" / "big.onnx").stat().st_size < 2**20
    again, beside = read_model(tmp_path / "copy" / "big.onnx")
    assert beside
    assert weights_of(again) == weights_of(lean)
