"""Sites of a user's file: number formats, fused operators, shared weights, and selections of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper
from torch import nn

from testbed.compat.exporters import quiet
from testbed.core.errors import TestbedError, UsageError
from testbed.instrument.adopt.file import adopt
from testbed.instrument.ports.insertion import instrument
from testbed.instrument.sites.catalogue import catalogue
from testbed.instrument.table import site_table
from tests.support.exporters import calibration_of, written
from tests.support.libraries import SITES, imported
from tests.support.onnx_files import by_hand


def test_a_quantised_file_is_injected_at_its_integers(dynamic: Path, images: NDArray, tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    file = tmp_path / "int8.onnx"
    kinds = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
    with quiet():
        quantize_static(str(dynamic), str(file), calibration_of(images), quant_format=QuantFormat.QDQ, **kinds)
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


def test_bit_operators_are_refused_where_they_would_change_the_files_meaning(dynamic: Path) -> None:
    content = dynamic.read_bytes()
    table = site_table(content, "model", "xor")
    assert instrument(content, table).opset_import[0].version == 26
    proto = onnx.load(dynamic)
    proto.opset_import[0].version = 17
    with pytest.raises(UsageError, match="'xor' need opset 26, in which this file's operators, of opset 17"):
        instrument(proto.SerializeToString(), table)


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


def test_a_weight_that_is_turned_on_its_way_is_found_as_it_is_stored(model: nn.Module, tmp_path: Path) -> None:
    file = written(model, tmp_path / "vit.onnx", "dynamo", optimize=False, external_data=False)
    turned, stored = ({s.name: s for s in catalogue(c).recognised} for c in (adopt(file).plain, file.read_bytes()))
    assert turned.keys() == stored.keys()
    assert turned["block.0.mlp.fc1.weight"].transposed
    assert not stored["block.0.mlp.fc1.weight"].transposed
    assert turned["block.0.mlp.fc1.weight"].shape == stored["block.0.mlp.fc1.weight"].shape == (128, 32)
