"""What a spec or a user's own file gets wrong is refused in one line that says what to do."""

from __future__ import annotations

import copy
import importlib
import json
import logging
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from testbed.campaign.facts import check_facts
from testbed.campaign.prepare.onnx_file import OnnxSubject
from testbed.campaign.preview.dry_run import dry_run_plan
from testbed.campaign.spec.campaign import parse_spec
from testbed.core.errors import GateFailed, UsageError
from testbed.core.folder.runfolder import RunFolder
from testbed.data import load
from testbed.report.page import build_report
from tests.support.foreign_campaigns import Finished, changed, run, written


def test_the_split_that_the_file_was_trained_on_can_be_named(
    finished: Finished, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = OnnxSubject.of(parse_spec(finished.values), None)
    assert "a draw by seed 3, the campaign's" in caplog.text
    caplog.clear()
    named = changed(finished, model={"training": {"seed": 0}})
    subject = OnnxSubject.of(parse_spec(named), None)
    assert caplog.text == ""
    assert subject.dataset.test.ids == load("digits", image=16, seed=0).test.ids
    assert subject.dataset.test.ids != theirs.dataset.test.ids


def test_a_spec_that_does_not_fit_the_file_is_refused_before_anything_is_written(
    finished: Finished, tmp_path: Path
) -> None:
    attention = [{"target": "attention", "where": "activation"}]
    anything = [{"target": "model", "where": "activation"}]
    nowhere = [{"target": "model", "where": "activation", "sites": ["block.7.*"]}]
    wrong = {
        "choose another file or data set": changed(finished, data={"name": "stripes of three"}),
        "no such file": changed(finished, model={"onnx": "nowhere.onnx"}),
        "no attention of a block 9 is recognised": changed(finished, attention={"block": 9}, faults=attention),
        "matches 'block.7.*'": changed(finished, faults=nowhere),
        "set engine.precision = 'fp32'": changed(finished, engine={"precision": "fp16"}, faults=anything),
        "onnx names a finished model": changed(finished, model={"preset": "digits", "recipe": "digits"}),
    }
    _register_three_classes()
    for told, values in wrong.items():
        with pytest.raises(UsageError) as error:
            run(values, tmp_path / "run")
        assert told in str(error.value)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def _register_three_classes() -> None:
    from testbed.data import Collection, Examples, register

    @register("stripes of three")
    def stripes(request: Any) -> Collection:
        images = np.zeros((12, 8, 8), np.uint8)
        whole = Examples.from_arrays("stripes", images, np.arange(12) % 3)
        return Collection(classes=["a", "b", "c"], test=whole)


def test_weights_without_a_value_are_refused_by_name(finished: Finished, tmp_path: Path) -> None:
    proto = onnx.load(finished.file)
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == "head.weight")
    values = np.array(numpy_helper.to_array(weight))
    values[3, 7] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(proto, tmp_path / "vit.onnx")
    spec = parse_spec(changed(finished, model={"onnx": str(tmp_path / "vit.onnx")}))
    for attempt in (lambda: dry_run_plan(spec), lambda: run(spec.model_dump(mode="json"), tmp_path / "run")):
        with pytest.raises(
            UsageError, match=r"vit\.onnx: its weight 'head\.weight' holds NaN \(1 of 320 numbers\); .* export"
        ):
            attempt()
    assert not (tmp_path / "run").exists()


def test_images_that_are_not_normalised_are_told_unless_stated(
    finished: Finished, caplog: pytest.LogCaptureFixture
) -> None:
    values = changed(finished, data={"name": "gray pictures"}, tiers={"images": [1, 1]})
    _register_gray_pictures()
    OnnxSubject.of(parse_spec(values), None)
    assert "data: preprocess is not stated" in caplog.text
    assert "images are fed as none: " in caplog.text
    for stated in ("none", {"mean": [0.3], "std": [0.4]}):
        caplog.clear()
        OnnxSubject.of(parse_spec(changed(finished, data={"name": "gray pictures", "preprocess": stated})), None)
        assert "not stated" not in caplog.text


def _register_gray_pictures() -> None:
    from testbed.data import Collection, Examples, register

    @register("gray pictures")
    def pictures(request: Any) -> Collection:
        images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
        whole = Examples.from_arrays("gray", images, np.arange(40) % 10)
        return Collection(classes=[str(n) for n in range(10)], test=whole)


def test_a_model_that_does_not_know_the_data_fails_the_accuracy_gate(finished: Finished, tmp_path: Path) -> None:
    values = changed(finished, gates={"test_accuracy": 0.999})
    with pytest.raises(GateFailed, match="is the data set, or its preprocessing"):
        run(values, tmp_path / "run")


@pytest.mark.parametrize(
    ("inputs", "outputs", "told"),
    [
        ([["b", 1, 16, 12]], [["b", 10]], "needs square images"),
        ([["b", 1, 16, 16], ["b", 1, 16, 16]], [["b", 10]], "has 2 inputs (x0, x1); it must have one"),
        ([["b", 256]], [["b", 10]], "needs square images (B, C, S, S)"),
        ([["b", 1, 16, 16]], [["b", 10], ["b", 10]], "has 2 outputs of 10 classes (y0, y1); name the one to judge"),
        ([["b", 1, 16, 16]], [["b", 5, 2]], "its output 'y0' is (B, 5, 2); a campaign needs logits"),
    ],
)
def test_a_file_that_is_no_classifier_of_images_is_refused(
    finished: Finished, tmp_path: Path, inputs: Any, outputs: Any, told: str
) -> None:
    xs = [helper.make_tensor_value_info(f"x{n}", TensorProto.FLOAT, shape) for n, shape in enumerate(inputs)]
    ys = [helper.make_tensor_value_info(f"y{n}", TensorProto.FLOAT, shape) for n, shape in enumerate(outputs)]
    pixels = int(np.prod(inputs[0][1:]))
    constants = [
        numpy_helper.from_array(np.array([-1, pixels]), "flat"),
        numpy_helper.from_array(np.ones((pixels, 10), np.float32), "w"),
    ]
    nodes = [
        helper.make_node("Reshape", ["x0", "flat"], ["pixels"]),
        helper.make_node("MatMul", ["pixels", "w"], ["z"]),
    ]
    if len(inputs) > 1:
        nodes[0].input[0] = "both"
        nodes.insert(0, helper.make_node("Add", ["x0", "x1"], ["both"]))
    for number, shape in enumerate(outputs):
        constants.append(numpy_helper.from_array(np.array([-1, *shape[1:]]), f"shape{number}"))
        nodes.append(helper.make_node("Reshape", ["z", f"shape{number}"], [f"y{number}"]))
    graph = helper.make_graph(nodes, "g", xs, ys, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(UsageError) as error:
        run(changed(finished, model={"onnx": str(tmp_path / "model.onnx")}), tmp_path / "run")
    assert told in str(error.value)


def test_a_file_that_ends_in_softmax_has_the_tiers_of_its_own_probabilities(
    finished: Finished, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    proto = onnx.load(finished.file)
    (output,) = proto.graph.output
    proto.graph.node.append(helper.make_node("Softmax", [output.name], ["probabilities"]))
    output.name = "probabilities"
    onnx.save(proto, tmp_path / "softmax.onnx")
    values = finished.values | {"model": {"onnx": str(tmp_path / "softmax.onnx")}}
    values["faults"] = [{**values["faults"][0], "sites": ["embed"], "bits": [30], "per_stratum": 1}]
    with caplog.at_level(logging.INFO):
        summary = run(values, tmp_path / "run")
    assert summary.tiers == finished.summary.tiers
    told = "it ends in Softmax, which is cut"
    assert told in caplog.text
    assert any(change.startswith(told) for change in summary.model.changes)
    assert told in build_report(tmp_path / "run").read_text()
    kept, theirs = (np.load(folder / "golden" / "logits.npy") for folder in (tmp_path / "run", finished.folder))
    np.testing.assert_array_equal(kept, theirs)


class Sums(nn.Module):
    """A branch as no published model has it: running sums instead of an activation function."""

    def __init__(self, in_features: int, hidden_features: int, **_: Any) -> None:
        super().__init__()
        self.before = nn.Linear(in_features, hidden_features)
        self.after = nn.Linear(hidden_features, in_features)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.after(self.before(tokens).cumsum(-1)))


def test_sites_that_are_not_recognised_are_told(
    finished: Finished, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert finished.summary.model.not_there == []
    library = importlib.import_module("timm.models.vision_transformer")
    model = library.VisionTransformer(
        img_size=16, patch_size=8, in_chans=1, num_classes=10, embed_dim=32, depth=2, num_heads=2, mlp_layer=Sums
    )
    values = copy.deepcopy(finished.values)
    values["model"]["onnx"] = str(written(model.eval(), tmp_path / "sums.onnx"))
    values["gates"]["test_accuracy"] = 0.999
    values["faults"] = [{"target": "model", "where": "activation"}]
    with pytest.raises(GateFailed, match="is the data set, or its preprocessing"):
        run(values, tmp_path / "run")
    assert "not there, and left out of every pattern of sites: block.0.mlp, a branch of a kind" in caplog.text
    facts = json.loads((tmp_path / "run" / "manifest.json").read_text())["stages"]["export.model"]["facts"]
    assert [entry["site"] for entry in facts["not_there"]] == ["block.0.mlp", "block.1.mlp"]
    check_facts(RunFolder.existing(tmp_path / "run"))  # so that it can be gone on with


def test_independent_probabilities_are_refused(finished: Finished, tmp_path: Path) -> None:
    proto = onnx.load(finished.file)
    (output,) = proto.graph.output
    proto.graph.node.append(helper.make_node("Sigmoid", [output.name], ["probabilities"]))
    output.name = "probabilities"
    onnx.save(proto, tmp_path / "sigmoid.onnx")
    with pytest.raises(UsageError, match=r"sigmoid.onnx ends in Sigmoid: .* export the logits"):
        run(finished.values | {"model": {"onnx": str(tmp_path / "sigmoid.onnx")}}, tmp_path / "run")
