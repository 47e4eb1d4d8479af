"""A campaign on a file that this project did not export: timm's ViT, trained in PyTorch, written by timm's own exporter.

Oracle: the PyTorch model with the same weight or activation changed by hand.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import json
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from testbed.campaign.facts import check_facts
from testbed.campaign.pipeline import run_campaign
from testbed.campaign.prepare.onnx_file import OnnxSubject
from testbed.campaign.preview.dry_run import dry_run_plan
from testbed.campaign.run import Run
from testbed.campaign.spec.campaign import parse_spec
from testbed.campaign.summary.record import Summary
from testbed.campaign.work.worker_setup import WorkerSetup
from testbed.core.errors import GateFailed, StaleArtefact, UsageError
from testbed.core.folder.runfolder import RunFolder
from testbed.data import load
from testbed.instrument.sites.catalogue import catalogue
from testbed.report.page import build_report
from tests.support.records import records

FC1_OUTPUT = "block.1.mlp.fc1"


@dataclass(frozen=True)
class Finished:
    """A campaign on ``file``, which holds ``model``."""

    model: nn.Module
    file: Path
    folder: Path
    summary: Summary
    values: dict[str, Any]


def trained() -> nn.Module:
    """On the digits, blown up to 16 x 16."""
    importlib.import_module("testbed.data.torchvision_import")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = pytest.importorskip("timm.models.vision_transformer", reason="timm is not installed")
    torch.manual_seed(0)
    model: nn.Module = library.VisionTransformer(
        img_size=16, patch_size=8, in_chans=1, num_classes=10, embed_dim=32, depth=2, num_heads=2
    )
    data = load("digits", image=16)
    images, labels = torch.from_numpy(data.train.batch(slice(None))), torch.from_numpy(data.train.labels.copy())
    optimiser = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(6):
        for part in torch.randperm(len(images)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images[part]), labels[part]).backward()
            optimiser.step()
    return model.eval()


def written(model: nn.Module, file: Path) -> Path:
    """By timm's own means."""
    export = importlib.import_module("timm.utils.onnx").onnx_export
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            export(model, str(file), example_input=torch.zeros(2, 1, 16, 16), check=False)
    finally:
        logging.disable(logging.NOTSET)
    return file


def spec_values(file: Path) -> dict[str, Any]:
    return {
        "name": "theirs",
        "seed": 3,
        "data": {"name": "digits"},
        "model": {"onnx": str(file)},
        "tiers": {"edges": [0.5, 1.0], "images": [3, 3]},
        "engine": {"batch": 16},
        "gates": {"test_accuracy": 0.5, "zero_fault_rows": 64},
        "tolerance": {"atol": 1e-5, "rtol": 1e-5},
        "faults": [
            {
                "target": "model",
                "where": "activation",
                "sites": ["*.softmax", FC1_OUTPUT, "embed"],
                "bits": [0, 20, 27, 31],
                "per_stratum": 8,
                "ops": ["flip"],
            },
            {
                "target": "model",
                "where": "weight",
                "sites": ["*.qkv.weight", "block.1.mlp.fc2.weight", "norm.bias", "head.weight", "cls_token"],
                "bits": [5, 22, 27, 31],
                "per_stratum": 3,
                "ops": ["flip", "stuck1"],
            },
        ],
    }


def run(values: dict[str, Any], folder: Path) -> Summary:
    return run_campaign(parse_spec(values), folder, worker_setup=WorkerSetup(0))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    torch.set_num_threads(1)
    model = trained()
    base = tmp_path_factory.mktemp("theirs")
    file = written(model, base / "vit.onnx")
    values = spec_values(file)
    return Finished(model, file, base / "run", run(values, base / "run"), values)


@pytest.fixture(scope="module")
def rows(finished: Finished) -> pd.DataFrame:
    with Run(finished.folder) as opened:
        return opened.results


def test_the_golden_is_the_files_own_and_says_so(finished: Finished) -> None:
    summary = finished.summary
    assert summary.model.preset == "vit.onnx"
    assert summary.model.reference == "the plain engine itself"
    assert summary.model.parameters == sum(p.numel() for p in finished.model.parameters())
    assert {record.pair for record in summary.parity} == {"plain-twin"}
    assert summary.zero_fault.mismatches == 0
    assert "nothing else vouches" in summary.statement
    assert (finished.folder / "model.onnx").read_bytes() == finished.file.read_bytes()
    test = load("digits", image=16, seed=3).test
    with torch.no_grad():
        logits = finished.model(torch.from_numpy(test.batch(slice(None)))).numpy()
    golden = np.load(finished.folder / "golden" / "logits.npy")
    np.testing.assert_allclose(golden, logits, rtol=0, atol=1e-4)
    assert summary.model.test_accuracy == pytest.approx((logits.argmax(1) == test.labels).mean(), abs=2e-3)


def images_of(finished: Finished) -> dict[str, torch.Tensor]:
    test = load("digits", image=16, seed=3).test
    return {image: torch.from_numpy(test.batch([test.position(image)])) for image in Run(finished.folder).image_ids}


def flipped(value: torch.Tensor, index: int, row: Any) -> torch.Tensor:
    words = value.reshape(-1).numpy().copy().view(np.uint32)
    words[index] = ((words[index] & np.uint32(row.and_mask)) | np.uint32(row.or_mask)) ^ np.uint32(row.xor_mask)
    return torch.from_numpy(words.view(np.float32).reshape(value.shape))


def same(stored: Any, computed: torch.Tensor, message: str) -> None:
    stored, logits = np.array(stored, np.float32), computed.detach().numpy()[0]
    np.testing.assert_allclose(stored, logits, rtol=1e-3, atol=1e-3 * max(1.0, np.abs(logits).max()), err_msg=message)


def test_a_weights_fault_is_that_weights_fault_in_pytorch(finished: Finished, rows: pd.DataFrame) -> None:
    images = images_of(finished)
    faulty = rows[(rows["where"] == "weight") & ~rows["nonfinite"].astype(bool)]
    assert len(faulty["site"].unique()) == 6
    for row in records(faulty.sample(60, random_state=0)):
        model = copy.deepcopy(finished.model)
        parameter = model.get_parameter(row.site.replace("block.", "blocks."))
        with torch.no_grad():
            changed = flipped(parameter.detach(), row.index, row)
            assert changed.reshape(-1)[row.index].item() == pytest.approx(row.faulty_value, nan_ok=True)
            parameter.copy_(changed)
            same(row.logits, model(images[row.image_id]), f"{row.site}[{row.index}] bit {row.bit}")


def test_an_activations_fault_is_that_activations_fault_in_pytorch(finished: Finished, rows: pd.DataFrame) -> None:
    images = images_of(finished)
    model: Any = finished.model
    modules = {FC1_OUTPUT: model.blocks[1].mlp.fc1, "embed": model.norm_pre}
    faulty = rows[rows["site"].isin(modules) & ~rows["nonfinite"].astype(bool)]
    for row in records(faulty.sample(40, random_state=0)):

        def inject(_module: Any, _inputs: Any, output: torch.Tensor, row: Any = row) -> torch.Tensor:
            assert output.reshape(-1)[row.index].item() == pytest.approx(row.golden_value, abs=1e-5)
            return flipped(output, row.index, row)

        handle = modules[row.site].register_forward_hook(inject)
        with torch.no_grad():
            same(row.logits, model(images[row.image_id]), f"{row.site}[{row.index}] bit {row.bit}")
        handle.remove()


def test_it_resumes_and_replays_without_the_file(finished: Finished, rows: pd.DataFrame) -> None:
    assert run(finished.values, finished.folder) == finished.summary
    hidden = finished.file.with_suffix(".away")
    finished.file.rename(hidden)
    try:
        with Run(finished.folder) as opened:
            hit = opened.replay(int(rows["fault_id"].iloc[0]))
            assert hit.outcome == rows["outcome"].iloc[0]
            assert opened.sites()["block.0.attn.softmax"].shape == (2, 5, 5)
        assert run(finished.values, finished.folder) == finished.summary
    finally:
        hidden.rename(finished.file)


def test_a_second_campaign_takes_golden_twin_and_gates_from_the_cache(finished: Finished, tmp_path: Path) -> None:
    spec, cache = parse_spec(finished.values), tmp_path / "cache"
    for name in ("first", "second"):
        run_campaign(spec, tmp_path / name, worker_setup=WorkerSetup(0), cache=cache)
        assert (tmp_path / name / "results.parquet").read_bytes() == (finished.folder / "results.parquet").read_bytes()
    stages = RunFolder.existing(tmp_path / "second").manifest["stages"]
    taken = {stage for stage, record in stages.items() if record["facts"].get("cache")}
    assert taken == {"golden", "instrument.model", "tune", "gates"}
    alike = {key: value for key, value in stages["golden"]["facts"].items() if key != "cache"}
    assert alike == RunFolder.existing(finished.folder).manifest["stages"]["golden"]["facts"]
    others = [*finished.values["faults"][:-1], {**finished.values["faults"][-1], "sites": ["head.weight"]}]
    run_campaign(
        parse_spec({**finished.values, "faults": others}), tmp_path / "third", worker_setup=WorkerSetup(0), cache=cache
    )
    stages = RunFolder.existing(tmp_path / "third").manifest["stages"]
    assert "cache" not in stages["instrument.model"]["facts"]  # patterns may name further tensors of such a file


def test_a_file_that_was_changed_since_is_refused(finished: Finished) -> None:
    content = finished.file.read_bytes()
    proto = onnx.load(finished.file)
    head = next(t for t in proto.graph.initializer if t.name == "head.bias")
    head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head) + 1, "head.bias"))
    onnx.save(proto, finished.file)
    try:
        with pytest.raises(StaleArtefact, match=r"'export\.model' was made from another plain"):
            run(finished.values, finished.folder)
    finally:
        finished.file.write_bytes(content)


def test_the_plan_can_be_seen_before(finished: Finished) -> None:
    plan = dry_run_plan(parse_spec(finished.values))
    assert plan.faults == finished.summary.faults
    assert plan.training_epochs == 0
    assert plan.unchecked == ["the gates: parity, drift, zero-fault rows, live weights"]  # its golden is known
    assert finished.summary.images is not None
    assert plan.images == finished.summary.images.named


def test_an_unrecognised_tensor_can_be_injected_by_its_own_name(finished: Finished, tmp_path: Path) -> None:
    found = catalogue(finished.file.read_bytes())
    tensor = next(site.name for site in found.others if site.where == "activation")
    values = copy.deepcopy(finished.values)
    values["faults"] = [{"target": "model", "where": "activation", "sites": [tensor], "bits": [30], "ops": ["flip"]}]
    values["gates"]["zero_fault_rows"] = 16
    run(values, tmp_path / "run")
    with Run(tmp_path / "run") as opened:
        assert set(opened.results["site"].astype(str)) == {tensor}


# ---- what a spec or a file gets wrong


def changed(finished: Finished, **tables: Any) -> dict[str, Any]:
    values = copy.deepcopy(finished.values)
    for name, table in tables.items():
        values[name] = {**values[name], **table} if isinstance(table, dict) else table
    return values


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
        "'attention' needs a model of the testbed": changed(finished, faults=attention),
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
        ([["b", 1, 16, 16]], [["b", 10], ["b", 10]], "has 2 outputs (y0, y1); export it with the logits alone"),
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


def test_sites_that_are_not_recognised_are_told(
    finished: Finished, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert finished.summary.model.not_there == []
    library = importlib.import_module("timm.models.vision_transformer")
    gated = importlib.import_module("timm.layers").SwiGLU
    model = library.VisionTransformer(
        img_size=16, patch_size=8, in_chans=1, num_classes=10, embed_dim=32, depth=2, num_heads=2, mlp_layer=gated
    )
    values = copy.deepcopy(finished.values)
    values["model"]["onnx"] = str(written(model.eval(), tmp_path / "gated.onnx"))
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
