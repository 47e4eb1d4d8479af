"""``testbed instrument``: the files it writes, what it tells, and its mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from click.testing import Result
from onnx import helper

from testbed.core.site import SiteTable
from testbed.export.onnx import export_onnx
from testbed.models.vit import ViT
from tests.support.commands import invoke
from tests.support.onnx_files import scrambled
from tests.support.tiny_models import TINY_VIT


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """An export of our own."""
    torch.manual_seed(0)
    file = tmp_path / "vit.onnx"
    export_onnx(ViT(TINY_VIT).eval(), torch.zeros(2, 1, 4, 4), file, input_name="image")
    return file


@pytest.fixture
def foreign(own: Path) -> Path:
    """The same without its names, and with weights of another opset's convention."""
    theirs = own.with_name("theirs.onnx")
    theirs.write_bytes(scrambled(own.read_bytes())[0])
    return theirs


def instrument(*arguments: object) -> Result:
    return invoke("instrument", *arguments)


@pytest.mark.parametrize("origin", ["own", "foreign"])
def test_the_twin_and_the_table_are_written_beside_the_file(origin: str, request: pytest.FixtureRequest) -> None:
    file = request.getfixturevalue(origin)
    before = file.read_bytes()
    result = instrument(file, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert file.read_bytes() == before
    assert told["plain"] == str(file)
    twin, table = onnx.load(told["twin"]), SiteTable.load(Path(told["table"]))
    assert (Path(told["twin"]), Path(told["table"])) == (
        file.with_name(f"{file.stem}.twin.onnx"),
        file.with_name(f"{file.stem}.sites.json"),
    )
    assert [site.name for site in table] == [site["name"] for site in told["sites"]]
    assert {"block.0.attn.softmax", "block.0.mlp.fc1.weight", "head"} <= {site.name for site in table}
    assert {value.name for value in twin.graph.input} > {"fault_site", "fault_index", "fault_value"}
    assert all(site["recognised"] for site in told["sites"])
    assert table.deployment_id == told["deployment_id"]


def test_sites_are_listed_for_people_in_the_same_words(foreign: Path, tmp_path: Path) -> None:
    result = instrument(foreign, "--to", tmp_path / "out")
    assert result.exit_code == 0
    assert "block.0.attn.softmax" in result.stdout
    assert f"{tmp_path / 'out' / 'theirs.twin.onnx'}" in result.stdout.replace("\n", "")
    assert (tmp_path / "out" / "theirs.sites.json").is_file()


def test_a_selection_is_all_that_gets_ports(foreign: Path) -> None:
    told = json.loads(instrument(foreign, "--sites", "block.0.attn.*", "--sites", "!*.k", "--json").stdout)
    names = {site["name"] for site in told["sites"] if site["where"] == "activation"}
    assert names == {f"block.0.attn.{name}" for name in ("q", "v", "scores", "softmax", "context", "proj", "residual")}


def test_all_has_every_tensor_recognised_or_not(own: Path, foreign: Path) -> None:
    for file in (own, foreign):
        told = json.loads(instrument(file, "--sites", "all", "--json").stdout)
        recognised = {site["name"] for site in told["sites"] if site["recognised"]}
        others = [site for site in told["sites"] if not site["recognised"]]
        assert "block.0.attn.softmax" in recognised
        assert others
        assert all(site["name"] == site["tensor"] for site in others)


@pytest.mark.parametrize("ports", ["gated_replace", "xor", "op"])
def test_each_mechanism(foreign: Path, ports: str) -> None:
    told = json.loads(instrument(foreign, "--ports", ports, "--json").stdout)
    assert SiteTable.load(Path(told["table"])).mechanism == told["ports"] == ports


def test_a_fixed_batch_gives_a_plain_file_of_its_own(own: Path) -> None:
    proto = onnx.load(own)
    del proto.metadata_props[:], proto.graph.value_info[:]
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    file = own.with_name("fixed.onnx")
    onnx.save(proto, file)
    told = json.loads(instrument(file, "--json").stdout)
    assert told["plain"] == str(own.with_name("fixed.plain.onnx"))
    assert onnx.load(told["plain"]).graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert any("made dynamic" in change for change in told["changes"])


def test_one_output_of_several_is_kept_where_it_is_named(foreign: Path) -> None:
    """Oracle: the file before it was given another output."""
    alone = onnx.load(foreign)
    (logits,) = alone.graph.output
    several = onnx.load(foreign)
    hidden = next(node.output[0] for node in several.graph.node if node.op_type == "LayerNormalization")
    several.graph.output.insert(0, helper.make_tensor_value_info(hidden, onnx.TensorProto.FLOAT, None))
    onnx.save(several, foreign)
    plain = onnx.load(json.loads(instrument(foreign, "--output", logits.name, "--json").stdout)["plain"])
    assert [value.name for value in plain.graph.output] == [logits.name]
    images = np.random.default_rng(0).standard_normal((2, 1, 4, 4)).astype(np.float32)
    both = [ort.InferenceSession(proto.SerializeToString()) for proto in (plain, alone)]
    rows = [session.run(None, {session.get_inputs()[0].name: images}) for session in both]
    np.testing.assert_array_equal(*rows)
    assert len(onnx.load(json.loads(instrument(foreign, "--json").stdout)["plain"]).graph.output) == 2


def mistakes(own: Path, tmp_path: Path) -> dict[str, tuple[list[Any], int, str]]:
    (tmp_path / "text.onnx").write_text("not a model")
    (tmp_path / "half.onnx").write_bytes(own.read_bytes()[: own.stat().st_size // 2])
    old = onnx.load(own)
    old.opset_import[0].version = 99
    del old.metadata_props[:], old.graph.value_info[:]
    for node in old.graph.node:
        node.output[:] = [f"t{name}" for name in node.output]
        node.input[:] = [f"t{n}" if n not in {i.name for i in old.graph.initializer} else n for n in node.input]
    for value in (*old.graph.input, *old.graph.output):
        value.name = f"t{value.name}"
    onnx.save(old, tmp_path / "new.onnx")
    return {
        "no file": ([tmp_path / "none.onnx"], 2, "no such file; name an ONNX file"),
        "text": ([tmp_path / "text.onnx"], 1, "is not ONNX, or is cut off"),
        "half a file": ([tmp_path / "half.onnx"], 1, "is not"),
        "no such site": ([own, "--sites", "block.9.*"], 2, "no site matches 'block.9.*'"),
        "weights only": ([own, "--sites", "*.weight"], 2, "the selection holds weights only"),
        "unknown output": ([own, "--output", "logit"], 2, "vit.onnx: unknown output 'logit'"),
        "unknown ports": ([own, "--ports", "magic"], 2, "'magic' is not one of"),
        "opset of the future": ([tmp_path / "new.onnx"], 1, "ONNX Runtime cannot build this model"),
    }


MISTAKES = (
    "no file",
    "text",
    "half a file",
    "no such site",
    "weights only",
    "unknown output",
    "unknown ports",
    "opset of the future",
)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(own: Path, tmp_path: Path, mistake: str) -> None:
    arguments, code, told = mistakes(own, tmp_path)[mistake]
    before = set(tmp_path.iterdir())
    result = instrument(*arguments)
    assert result.exit_code == code, result.output
    assert told in result.stderr
    assert result.stderr.count("\n") == 1
    assert set(tmp_path.iterdir()) == before


def test_a_file_without_a_vit_says_how_to_take_it_anyway(tmp_path: Path) -> None:
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["b", 4]) for name in "xy")
    weight = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = onnx.helper.make_graph(nodes, "g", [x], [y], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "mlp.onnx")
    assert "--sites all takes every tensor there is" in instrument(tmp_path / "mlp.onnx").stderr
    assert instrument(tmp_path / "mlp.onnx", "--sites", "all").exit_code == 0
