"""A user's file becomes a plain file that ports can be built into, or one line says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import nn

from testbed.compat.exporters import quiet
from testbed.core.errors import EngineError, TestbedError, UsageError
from testbed.instrument.adopt.file import adopt
from testbed.instrument.ports.feed import PortFeed
from testbed.instrument.ports.insertion import instrument
from testbed.instrument.sites.catalogue import catalogue
from testbed.instrument.table import site_table
from tests.support.exporters import written
from tests.support.libraries import SITES, imported
from tests.support.onnx_files import by_hand, file_of, logits, site_names, torch_logits


def test_a_file_that_needs_nothing_stays_what_it_is(dynamic: Path) -> None:
    adopted = adopt(dynamic)
    assert adopted.plain == dynamic.read_bytes()
    assert not adopted.changes


VARIANTS: dict[str, Callable[[nn.Module, Path], Path]] = {
    "before LayerNormalization": lambda m, f: written(m, f, "torchscript", opset_version=14),
    "weights among the inputs": lambda m, f: written(m, f, "torchscript", keep_initializers_as_inputs=True),
    "any image size": lambda m, f: written(
        m, f, "torchscript", dynamic_axes={"images": {0: "batch", 1: "channels", 2: "height", 3: "width"}}
    ),
    "not optimised": lambda m, f: written(m, f, "dynamo", optimize=False),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_other_ways_of_writing_the_same_model(
    model: nn.Module, images: NDArray, session: Any, tmp_path: Path, variant: str
) -> None:
    plain = adopt(VARIANTS[variant](model, tmp_path / "vit.onnx")).plain
    assert site_names(plain) == SITES
    assert len(site_names(plain, "weight")) == len(list(model.parameters()))
    np.testing.assert_allclose(logits(session, plain, images), torch_logits(model, images), rtol=0, atol=1e-5)
    table = site_table(plain, "model")
    twin = session(instrument(plain, table).SerializeToString())
    fed = {onnx.load_from_string(plain).graph.input[0].name: images, **PortFeed.idle(3).as_inputs(table)}
    np.testing.assert_allclose(twin(fed)[twin.outputs[0]], torch_logits(model, images), rtol=0, atol=1e-5)


def test_a_file_past_two_gigabytes_is_told_so(dynamic: Path, tmp_path: Path) -> None:
    proto = onnx.load(dynamic)
    table = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=[9_300_000, 64])
    table.data_location = TensorProto.EXTERNAL
    table.external_data.add(key="location", value="table.bin")
    proto.graph.initializer.append(table)
    onnx.save(proto, tmp_path / "big.onnx")
    with (tmp_path / "table.bin").open("wb") as file:
        file.truncate(9_300_000 * 64 * 4)
    sparse = tmp_path / "sparse.onnx"
    with sparse.open("wb") as file:
        file.truncate(2**31 + 1)
    for path, size in ((tmp_path / "big.onnx", "2.2"), (sparse, "2.0")):
        with pytest.raises(
            TestbedError, match=f"holds {size} GiB with its weights; larger than 2 GiB, protobuf's limit"
        ):
            adopt(path)


def test_nodes_in_another_order_are_sorted(dynamic: Path, images: NDArray, session: Any, tmp_path: Path) -> None:
    proto = onnx.load(dynamic)
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes[::-1])
    onnx.save(proto, tmp_path / "reversed.onnx")
    adopted = adopt(tmp_path / "reversed.onnx")
    assert adopted.changes == ("its nodes are put in the order in which they are computed",)
    assert site_names(adopted.plain) == SITES
    np.testing.assert_array_equal(logits(session, adopted.plain, images), logits(session, dynamic.read_bytes(), images))


def test_a_circle_is_not_sorted(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "z"], ["y"]), helper.make_node("Identity", ["y"], ["z"])]
    rule = "is not valid ONNX: Nodes in a graph must be topologically sorted.*ONNX Runtime refuses it, too: export it"
    with pytest.raises(TestbedError, match=rule):
        adopt(file_of(tmp_path, by_hand(nodes)))


def test_half_precision_by_onnx_runtimes_converter_is_taken(
    dynamic: Path, images: NDArray, session: Any, tmp_path: Path
) -> None:
    convert = imported("onnxruntime.transformers.float16").convert_float_to_float16
    with quiet():
        half = convert(onnx.load(dynamic), keep_io_types=True)
    (tmp_path / "half.onnx").write_bytes(half.SerializeToString())
    adopted = adopt(tmp_path / "half.onnx")
    found = [site for site in catalogue(adopted.plain).recognised if site.where == "activation"]
    assert {site.name for site in found} == SITES
    assert {site.format_name for site in found} == {"fp16"}
    wanted = logits(session, dynamic.read_bytes(), images)
    np.testing.assert_allclose(logits(session, adopted.plain, images), wanted, rtol=0, atol=0.05 * np.abs(wanted).max())
    table = site_table(adopted.plain, "model")
    twin = session(instrument(adopted.plain, table).SerializeToString())
    faulty = twin({"images": images, **PortFeed.idle(3).as_inputs(table)})["logits"]
    np.testing.assert_allclose(faulty, wanted, rtol=0, atol=0.05 * np.abs(wanted).max())


def test_weights_beside_the_file_are_taken_into_it(
    dynamic: Path, images: NDArray, session: Any, tmp_path: Path
) -> None:
    onnx.save(onnx.load(dynamic), tmp_path / "vit.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    adopted = adopt(tmp_path / "vit.onnx")
    assert adopted.changes == ("the weights kept beside the file are taken into it",)
    np.testing.assert_array_equal(logits(session, adopted.plain, images), logits(session, dynamic.read_bytes(), images))


def test_weights_beside_the_file_that_cannot_be_read_are_named(dynamic: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    file, beside = folder / "vit.onnx", folder / "w.bin"
    onnx.save(onnx.load(dynamic), file, save_as_external_data=True, location="w.bin", size_threshold=0)
    whole = beside.read_bytes()
    cannot = "the weights kept beside it cannot be read: "
    beside.write_bytes(whole[:-4])
    with pytest.raises(TestbedError, match=rf"{cannot}'.*' lies in w.bin, which ends at byte .*: it is cut off"):
        adopt(file)
    (tmp_path / "w.bin").write_bytes(whole)
    beside.unlink()
    with pytest.raises(
        TestbedError, match=rf"{cannot}'.*' lies in w.bin, which is not there; put that file beside vit.onnx"
    ):
        adopt(file)
    proto = onnx.load(file, load_external_data=False)
    for location in ("../w.bin", str(tmp_path / "w.bin"), ""):
        for tensor in proto.graph.initializer:
            next(entry for entry in tensor.external_data if entry.key == "location").value = location
        onnx.save(proto, file)
        with pytest.raises(
            TestbedError, match=rf"{cannot}.* is said to lie in '.*', which is not in the file's own folder"
        ):
            adopt(file)


def test_weights_written_as_constants_become_weights(
    dynamic: Path, images: NDArray, session: Any, tmp_path: Path
) -> None:
    proto = onnx.load(dynamic)
    weight = next(t for t in proto.graph.initializer if t.name.endswith("attn.qkv.bias"))
    proto.graph.node.insert(0, helper.make_node("Constant", [], [weight.name], value=weight))
    proto.graph.initializer.remove(weight)
    onnx.save(proto, tmp_path / "vit.onnx")
    adopted = adopt(tmp_path / "vit.onnx")
    assert site_names(adopted.plain, "weight") == site_names(dynamic.read_bytes(), "weight")
    np.testing.assert_array_equal(logits(session, adopted.plain, images), logits(session, dynamic.read_bytes(), images))


def test_what_is_not_onnx_is_one_line(tmp_path: Path, dynamic: Path) -> None:
    for content in (b"", b"not onnx at all", dynamic.read_bytes()[:2000], dynamic.read_bytes()[:-500]):
        with pytest.raises(TestbedError, match=r"is not ONNX, or is cut off|is not valid ONNX: |is empty") as told:
            adopt(file_of(tmp_path, content))
        assert "\n" not in str(told.value)
    with pytest.raises(UsageError, match="no such file"):
        adopt(tmp_path / "none.onnx")
    with pytest.raises(UsageError, match="this is a folder"):
        adopt(tmp_path)


def test_an_opset_that_ports_or_the_engine_cannot_take_is_one_line(tmp_path: Path, dynamic: Path) -> None:
    proto = onnx.load(dynamic)
    proto.opset_import[0].version = 99
    with pytest.raises(EngineError, match="ONNX Runtime cannot build this model") as told:
        catalogue(proto.SerializeToString())
    assert "\n" not in str(told.value)
    old = onnx.load_from_string(by_hand([helper.make_node("MatMul", ["x", "w"], ["y"])], w=np.eye(4, dtype=np.float32)))
    old.opset_import[0].version = 9
    with pytest.raises(TestbedError, match="is of opset 9; fault ports need 11 or later"):
        adopt(file_of(tmp_path, old.SerializeToString()))


def test_a_weight_used_twice_is_not_turned(tmp_path: Path, session: Any) -> None:
    weight, x = np.arange(16, dtype=np.float32).reshape(4, 4), np.ones((2, 4), np.float32)
    nodes = [
        helper.make_node("Transpose", ["w"], ["turned"]),
        helper.make_node("MatMul", ["x", "turned"], ["z"]),
        helper.make_node("MatMul", ["z", "w"], ["y"]),
    ]
    adopted = adopt(file_of(tmp_path, by_hand(nodes, w=weight)))
    assert not adopted.changes
    np.testing.assert_array_equal(session(adopted.plain)({"x": x})["y"], x @ weight.T @ weight)


def test_an_own_export_that_another_tool_put_out_of_order_is_sorted(exported: Any, tmp_path: Path) -> None:
    proto = onnx.load_from_string(exported.plain)
    (tmp_path / "as_written.onnx").write_bytes(exported.plain)
    assert adopt(tmp_path / "as_written.onnx").plain == exported.plain
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes[::-1])
    onnx.save(proto, tmp_path / "reversed.onnx")
    adopted = adopt(tmp_path / "reversed.onnx")
    assert adopted.changes == ("its nodes are put in the order in which they are computed",)
    onnx.checker.check_model(onnx.load_from_string(adopted.plain))
