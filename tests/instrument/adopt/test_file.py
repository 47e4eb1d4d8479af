"""A user's file becomes a plain file that ports can be built into, or one line says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from testbed.core.errors import EngineError, TestbedError, UsageError
from testbed.instrument.adopt.file import adopt
from testbed.instrument.ports.feed import PortFeed
from testbed.instrument.ports.insertion import instrument
from testbed.instrument.sites.catalogue import catalogue
from testbed.instrument.table import site_table
from tests.instrument.sites.test_recognise import SITES
from tests.support.exporters import quiet, randomised, written
from tests.support.libraries import LIBRARIES, imported


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return randomised(LIBRARIES["timm"].model())


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    return np.random.default_rng(2).standard_normal((3, 3, 16, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def dynamic(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """timm's ViT as the older exporter writes it."""
    return written(model, tmp_path_factory.mktemp("adopt") / "vit.onnx", "torchscript")


def logits(session: Any, plain: bytes, images: NDArray) -> NDArray:
    name = onnx.load_from_string(plain).graph.input[0].name
    found: NDArray = next(iter(session(plain)({name: images}).values()))
    return found


def names(plain: bytes, where: str = "activation") -> set[str]:
    return {site.name for site in catalogue(plain).recognised if site.where == where}


def torch_logits(model: nn.Module, images: NDArray) -> NDArray:
    with torch.no_grad():
        return model(torch.from_numpy(images)).numpy()


# ---- what is taken as it is, and what is changed


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
    assert names(plain) == SITES
    assert len(names(plain, "weight")) == len(list(model.parameters()))
    np.testing.assert_allclose(logits(session, plain, images), torch_logits(model, images), rtol=0, atol=1e-5)
    table = site_table(plain, "model")
    twin = session(instrument(plain, table).SerializeToString())
    fed = {onnx.load_from_string(plain).graph.input[0].name: images, **PortFeed.idle(3).as_inputs(table)}
    np.testing.assert_allclose(twin(fed)[twin.outputs[0]], torch_logits(model, images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["timm", "hugging face"])
@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_a_batch_fixed_at_one_is_made_dynamic(
    images: NDArray, session: Any, tmp_path: Path, name: str, exporter: str
) -> None:
    fixed = randomised(LIBRARIES[name].model())
    adopted = adopt(written(fixed, tmp_path / "vit.onnx", exporter, batch=1))
    assert any("made dynamic" in change for change in adopted.changes)
    assert names(adopted.plain) == SITES
    with torch.no_grad():
        output = fixed(torch.from_numpy(images))
    wanted = getattr(output, "logits", output).numpy()
    np.testing.assert_allclose(logits(session, adopted.plain, images), wanted, rtol=0, atol=1e-5)


def test_a_fixed_batch_that_cannot_be_made_dynamic_is_refused_with_the_way_to_export(tmp_path: Path) -> None:
    file = written(randomised(LIBRARIES["torchvision"].model()), tmp_path / "vit.onnx", "torchscript", batch=1)
    with pytest.raises(
        UsageError, match=r"fixed at 1; export it with a dynamic batch: torch.onnx.export\(...,"
    ) as told:
        adopt(file)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["timm", "torchvision"])
def test_a_batch_that_is_dynamic_in_name_only_is_one_of_one(
    images: NDArray, session: Any, tmp_path: Path, name: str
) -> None:
    fixed = randomised(LIBRARIES[name].model())
    proto = onnx.load(written(fixed, tmp_path / "vit.onnx", "torchscript", batch=1))
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(proto, tmp_path / "claims.onnx")
    if name == "torchvision":
        told = "declares a dynamic batch, but its graph holds it to one image; export it with a dynamic batch: torch"
        with pytest.raises(UsageError, match=told):
            adopt(tmp_path / "claims.onnx")
        return
    adopted = adopt(tmp_path / "claims.onnx")
    assert any("said to be dynamic but held to one image" in change for change in adopted.changes)
    np.testing.assert_allclose(logits(session, adopted.plain, images), torch_logits(fixed, images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("held", [2, 3])
def test_a_batch_that_is_held_to_the_number_of_images_it_was_exported_with_is_refused(
    tmp_path: Path, held: int
) -> None:
    """As a class token written as ``token.expand(len(x), -1)`` leaves it."""
    content = by_hand([helper.make_node("Reshape", ["x", "many"], ["y"])], many=np.array([held, 4]))
    with pytest.raises(UsageError, match=f"its graph holds it to {held} images; export it with a dynamic batch"):
        adopt(bad(tmp_path, content))


def test_a_larger_batch_that_is_dynamic_in_name_only_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Reshape", ["x", "eight"], ["y"])]
    content = by_hand(nodes, eight=np.array([8, 4]))
    with pytest.raises(
        UsageError, match=r"neither with one image nor with two \(ONNX Runtime failed.*; export it with a"
    ):
        adopt(bad(tmp_path, content))


def test_a_file_past_two_gigabytes_is_told_so(dynamic: Path, tmp_path: Path) -> None:
    proto = onnx.load(dynamic)
    table = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=[9_300_000, 64])
    table.data_location = TensorProto.EXTERNAL
    table.external_data.add(key="location", value="table.bin")
    proto.graph.initializer.append(table)
    onnx.save(proto, tmp_path / "big.onnx")
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
    assert names(adopted.plain) == SITES
    np.testing.assert_array_equal(logits(session, adopted.plain, images), logits(session, dynamic.read_bytes(), images))


def test_a_circle_is_not_sorted(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "z"], ["y"]), helper.make_node("Identity", ["y"], ["z"])]
    rule = "is not valid ONNX: Nodes in a graph must be topologically sorted.*ONNX Runtime refuses it, too: export it"
    with pytest.raises(TestbedError, match=rule):
        adopt(bad(tmp_path, by_hand(nodes)))


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


def test_a_larger_fixed_batch_is_refused(dynamic: Path, tmp_path: Path) -> None:
    proto = onnx.load(dynamic)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8
    onnx.save(proto, tmp_path / "eight.onnx")
    with pytest.raises(UsageError, match="fixed at 8; export it with a dynamic batch"):
        adopt(tmp_path / "eight.onnx")


def test_weights_beside_the_file_are_taken_into_it(
    dynamic: Path, images: NDArray, session: Any, tmp_path: Path
) -> None:
    onnx.save(onnx.load(dynamic), tmp_path / "vit.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    adopted = adopt(tmp_path / "vit.onnx")
    assert adopted.changes == ("the weights kept beside the file are taken into it",)
    np.testing.assert_array_equal(logits(session, adopted.plain, images), logits(session, dynamic.read_bytes(), images))
    (tmp_path / "w.bin").unlink()
    with pytest.raises(TestbedError, match="the weights kept beside it cannot be read"):
        adopt(tmp_path / "vit.onnx")


def test_weights_written_as_constants_become_weights(
    dynamic: Path, images: NDArray, session: Any, tmp_path: Path
) -> None:
    proto = onnx.load(dynamic)
    weight = next(t for t in proto.graph.initializer if t.name.endswith("attn.qkv.bias"))
    proto.graph.node.insert(0, helper.make_node("Constant", [], [weight.name], value=weight))
    proto.graph.initializer.remove(weight)
    onnx.save(proto, tmp_path / "vit.onnx")
    adopted = adopt(tmp_path / "vit.onnx")
    assert names(adopted.plain, "weight") == names(dynamic.read_bytes(), "weight")
    np.testing.assert_array_equal(logits(session, adopted.plain, images), logits(session, dynamic.read_bytes(), images))


# ---- number formats, fused operators, shared weights


def test_a_quantised_file_is_struck_at_its_integers(dynamic: Path, images: NDArray, tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        batches = iter([{"images": images}])

        def get_next(self) -> Any:
            return next(self.batches, None)

    file = tmp_path / "int8.onnx"
    kinds = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
    with quiet():
        quantize_static(str(dynamic), str(file), Reader(), quant_format=QuantFormat.QDQ, **kinds)
    proto = onnx.load(file)
    made = {name: node.op_type for node in proto.graph.node for name in node.output}
    found = catalogue(adopt(file).plain).recognised
    activations = {site.name: site for site in found if site.where == "activation"}
    assert activations.keys() == SITES
    quantised = [site for site in activations.values() if site.format_name == "int8"]
    assert len(quantised) > len(SITES) / 2
    assert {made[site.tensor] for site in quantised} == {"QuantizeLinear"}
    weights = {site.name: site.format_name for site in found if site.where == "weight"}
    assert weights["block.1.mlp.fc1.weight"] == "int8"
    assert weights["block.1.mlp.fc1.weight.scale"] == weights["block.1.attn.softmax.scale"] == "fp32"


def test_sites_inside_a_fused_operator_are_told_and_the_others_offered(model: nn.Module, tmp_path: Path) -> None:
    file = written(model, tmp_path / "vit.onnx", "dynamo", opset_version=23)  # has an operator Attention
    inside = {f"block.{block}.attn.{name}" for block in (0, 1) for name in ("scores", "softmax")}
    found = catalogue(adopt(file).plain)
    assert found.missing == dict.fromkeys(inside, "inside the operator Attention")
    assert {site.name for site in found.recognised if site.where == "activation"} == SITES - inside


def test_operators_that_onnx_runtime_fuses_are_known(dynamic: Path, tmp_path: Path) -> None:
    optimizer = imported("onnxruntime.transformers.optimizer")
    with quiet():
        fused = optimizer.optimize_model(str(dynamic), model_type="vit", num_heads=2, hidden_size=32, opt_level=0)
        fused.save_model_to_file(str(tmp_path / "fused.onnx"))
    found = catalogue((tmp_path / "fused.onnx").read_bytes())
    there = {site.name for site in found.recognised if site.where == "activation"}
    assert there | found.missing.keys() == SITES
    assert found.missing["block.0.mlp.fc1"] == "inside the operator BiasGelu"
    assert "block.0.attn.softmax" in there
    assert len([s for s in found.recognised if s.where == "weight"]) == 32


def test_a_weight_with_several_uses_is_told_and_keeps_its_own_name(dynamic: Path) -> None:
    proto = onnx.load(dynamic)
    first, second = (next(n for n in proto.graph.node if f"model.blocks.{b}.norm1.weight" in n.input) for b in (0, 1))
    second.input[1] = first.input[1]
    found = catalogue(proto.SerializeToString())
    assert found.shared == {"model.blocks.0.norm1.weight": ["block.0.norm1.weight", "block.1.norm1.weight"]}
    assert not {"block.0.norm1.weight", "block.1.norm1.weight"} & {site.name for site in found.recognised}
    assert [s.name for s in found.select(["model.blocks.0.norm1.weight"])] == ["model.blocks.0.norm1.weight"]


# ---- selections


def test_tensors_without_a_human_name_are_offered_only_when_asked_for(dynamic: Path) -> None:
    found = catalogue(dynamic.read_bytes())
    mine = {site.name for site in found.select(["*"])}
    assert mine == {site.name for site in found.recognised}
    everything = {site.name for site in found.select(["all"])}
    assert mine < everything
    one = next(site.name for site in found.others if "qkv/MatMul" in site.name)
    assert [site.name for site in found.select([one])] == [one]
    table = site_table(dynamic.read_bytes(), "model", also=[one, "*"])
    assert {site.name for site in table} == mine | {one}


def test_selections_leave_out_and_refuse(dynamic: Path) -> None:
    found = catalogue(dynamic.read_bytes())
    assert [s.name for s in found.select(["block.0.attn.?", "!*.k"])] == ["block.0.attn.q", "block.0.attn.v"]
    with pytest.raises(UsageError, match=r"no site matches 'block\.7"):
        found.select(["block.7.*"])
    with pytest.raises(UsageError, match="the selection leaves no site"):
        found.select(["*.softmax", "!*"])


def test_only_tensors_that_lead_with_the_batch_are_offered(dynamic: Path) -> None:
    for site in catalogue(dynamic.read_bytes()).select(["all"]):
        assert site.where == "weight" or 0 not in site.shape
    offered = {site.tensor for site in catalogue(dynamic.read_bytes()).select(["all"])}
    packed = {node.output[0] for node in onnx.load(dynamic).graph.node if node.op_type == "Transpose"}
    assert any("attn/Transpose_output" in tensor for tensor in packed - offered)  # (3, batch, ...): q, k and v packed


# ---- ports that a file cannot take, and files that are none


def test_bit_operators_are_refused_where_they_would_change_the_files_meaning(dynamic: Path) -> None:
    content = dynamic.read_bytes()
    table = site_table(content, "model", "xor")
    assert instrument(content, table).opset_import[0].version == 26
    proto = onnx.load(dynamic)
    proto.opset_import[0].version = 17
    with pytest.raises(UsageError, match="'xor' need opset 26, in which this file's operators, of opset 17"):
        instrument(proto.SerializeToString(), table)


def bad(tmp_path: Path, content: bytes) -> Path:
    file = tmp_path / "bad.onnx"
    file.write_bytes(content)
    return file


def test_what_is_not_onnx_is_one_line(tmp_path: Path, dynamic: Path) -> None:
    for content in (b"", b"not onnx at all", dynamic.read_bytes()[:2000], dynamic.read_bytes()[:-500]):
        with pytest.raises(TestbedError, match=r"is not ONNX, or is cut off|is not valid ONNX: |is empty") as told:
            adopt(bad(tmp_path, content))
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
        adopt(bad(tmp_path, old.SerializeToString()))


# ---- small graphs by hand


def by_hand(nodes: list[onnx.NodeProto], batch: str | int = "b", **weights: NDArray) -> bytes:
    """From x (b, 4) to y."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 4])
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "by hand", [x], [y], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def test_a_file_without_attention_is_no_vit() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Softmax", ["z"], ["y"])]
    content = by_hand(nodes, w=np.eye(4, dtype=np.float32))
    with pytest.raises(TestbedError, match="no ViT's attention is recognised"):
        site_table(content, "model")
    assert {site.name for site in catalogue(content).select(["all"])} == {"z", "y", "w"}


def test_a_tensor_that_grows_with_the_batch_elsewhere_is_not_offered() -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["turned"]),
        helper.make_node("MatMul", ["x", "turned"], ["each with each"]),  # (b, b)
        helper.make_node("MatMul", ["each with each", "x"], ["y"]),
    ]
    assert {site.name for site in catalogue(by_hand(nodes)).select(["all"])} == {"y"}


def test_a_model_whose_rows_depend_on_each_other_keeps_its_fixed_batch(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x", "over the batch"], ["mean"]),
        helper.make_node("Sub", ["x", "mean"], ["centred"]),
        helper.make_node("Add", ["centred", "w"], ["y"]),
    ]
    content = by_hand(nodes, batch=1, w=np.ones(4, np.float32), **{"over the batch": np.array([0])})
    with pytest.raises(UsageError, match="export it with a dynamic batch"):
        adopt(bad(tmp_path, content))


def test_a_weight_used_twice_is_not_turned(tmp_path: Path, session: Any) -> None:
    weight, x = np.arange(16, dtype=np.float32).reshape(4, 4), np.ones((2, 4), np.float32)
    nodes = [
        helper.make_node("Transpose", ["w"], ["turned"]),
        helper.make_node("MatMul", ["x", "turned"], ["z"]),
        helper.make_node("MatMul", ["z", "w"], ["y"]),
    ]
    adopted = adopt(bad(tmp_path, by_hand(nodes, w=weight)))
    assert not adopted.changes
    np.testing.assert_array_equal(session(adopted.plain)({"x": x})["y"], x @ weight.T @ weight)


def test_a_weight_that_is_turned_on_its_way_is_found_as_it_is_stored(model: nn.Module, tmp_path: Path) -> None:
    file = written(model, tmp_path / "vit.onnx", "dynamo", optimize=False, external_data=False)
    turned, stored = ({s.name: s for s in catalogue(c).recognised} for c in (adopt(file).plain, file.read_bytes()))
    assert turned.keys() == stored.keys()
    assert turned["block.0.mlp.fc1.weight"].transposed
    assert not stored["block.0.mlp.fc1.weight"].transposed
    assert turned["block.0.mlp.fc1.weight"].shape == stored["block.0.mlp.fc1.weight"].shape == (128, 32)


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
