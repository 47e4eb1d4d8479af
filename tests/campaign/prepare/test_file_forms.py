"""Campaigns on one ViT in the forms in which files for deployment come.

Oracle: the file itself, run by ONNX Runtime on the same images; the torch model that it was made from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray

from testbed.campaign.run import Run
from testbed.campaign.summary.record import Summary
from testbed.core.errors import UsageError
from testbed.data import load
from tests.support.file_forms import ENDINGS, FORMS
from tests.support.foreign_campaigns import Finished, changed, run
from tests.support.quantised_files import QUANTISED, quantised

SITES = ["embed", "block.0.norm1", "block.1.mlp.fc1"]


def faults(**more: Any) -> list[dict[str, Any]]:
    section = {"target": "model", "where": "activation", "sites": SITES, "per_stratum": 2, "ops": ["flip"]}
    return [{**section, **more}]


def campaign(finished: Finished, folder: Path, file: Path, **tables: Any) -> Summary:
    """A small campaign on the file, which reports its golden and its rows."""
    tables = {"faults": faults(bits=[1, 6]), "gates": {"zero_fault_rows": 32}, **tables}
    return run(changed(finished, model={"onnx": str(file)}, **tables), folder)


def formed(finished: Finished, folder: Path, name: str) -> Path:
    proto = onnx.load(finished.file)
    (output,) = proto.graph.output
    for node in proto.graph.node:  # as the forms know the plain model
        node.output[:] = ["logits" if tensor == output.name else tensor for tensor in node.output]
    output.name = "logits"
    form = (FORMS | ENDINGS)[name]
    onnx.save(form.make(proto) or proto, folder / "vit.onnx")
    return folder / "vit.onnx"


def torch_logits(finished: Finished) -> NDArray:
    test = load("digits", image=16, seed=3).test
    with torch.no_grad():
        return np.asarray(finished.model(torch.from_numpy(test.batch(slice(None)))))


def golden(folder: Path) -> NDArray:
    return np.load(folder / "golden" / "logits.npy")


def pixels() -> NDArray[np.float32]:
    return load("digits", image=16, seed=3, preprocess="pixels").test.batch(slice(None))


def test_bytes_are_fed_pixels_and_say_so(finished: Finished, tmp_path: Path) -> None:
    file = formed(finished, tmp_path, "bytes, channels last")
    summary = campaign(finished, tmp_path / "run", file)
    assert "pixels" in str(summary.data.preprocess)
    assert any("it takes uint8 pixels" in change for change in summary.model.changes)
    session = ort.InferenceSession(file)
    whole = np.rint(pixels()).astype(np.uint8).transpose(0, 2, 3, 1)
    (wanted,) = session.run(None, {session.get_inputs()[0].name: whole})
    np.testing.assert_allclose(golden(tmp_path / "run"), wanted, rtol=0, atol=1e-4)
    assert (wanted.argmax(1) == torch_logits(finished).argmax(1)).mean() > 0.97  # of pixels that were rounded
    for preprocess in ("digits", {"mean": [0.5], "std": [0.5], "scale": 1.0}):
        with pytest.raises(UsageError, match=r"takes pixels from 0 to 255 .* leave data\.preprocess out"):
            campaign(finished, tmp_path / "wrong", file, data={"preprocess": preprocess})
    assert not (tmp_path / "wrong").exists()


def test_an_output_is_chosen_by_its_classes(finished: Finished, tmp_path: Path) -> None:
    summary = campaign(finished, tmp_path / "run", formed(finished, tmp_path, "hidden states"))
    assert any("logits is judged, the only one of 10 classes" in change for change in summary.model.changes)
    np.testing.assert_allclose(golden(tmp_path / "run"), torch_logits(finished), rtol=0, atol=1e-4)


def test_an_output_can_be_named_in_the_spec(finished: Finished, tmp_path: Path) -> None:
    file = formed(finished, tmp_path, "two heads")
    model = {"onnx": str(file), "output": "cls_logits"}
    values = changed(finished, model=model, faults=faults(bits=[1]), gates={"zero_fault_rows": 32})
    summary = run(values, tmp_path / "run")
    assert any("cls_logits is judged, which was asked for" in change for change in summary.model.changes)
    np.testing.assert_allclose(golden(tmp_path / "run"), 0.5 * torch_logits(finished), rtol=0, atol=1e-4)
    with pytest.raises(UsageError, match=r"unknown output 'cls'"):
        run(changed(finished, model={**model, "output": "cls"}), tmp_path / "other")


def test_a_file_of_one_image_runs_one_fault_at_a_time(finished: Finished, tmp_path: Path) -> None:
    proto = onnx.load(finished.file)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    (logits,) = proto.graph.output
    width = onnx.numpy_helper.from_array(np.array([10]), "width")
    proto.graph.initializer.append(width)
    proto.graph.node.extend(  # a shape that no rewriting opens: the rows are put together and shaped anew
        [
            onnx.helper.make_node("Reshape", [logits.name, "width"], ["flat"]),
            onnx.helper.make_node("Unsqueeze", ["flat", "first"], ["rows"]),
        ]
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "first"))
    logits.CopyFrom(onnx.helper.make_tensor_value_info("rows", onnx.TensorProto.FLOAT, [1, 10]))
    onnx.save(proto, tmp_path / "vit.onnx")
    summary = campaign(finished, tmp_path / "run", tmp_path / "vit.onnx", engine={"batch": 16})
    assert summary.engine.batch == 1
    assert "one image at a time" in str(summary.model_dump_json())
    np.testing.assert_allclose(golden(tmp_path / "run"), torch_logits(finished), rtol=0, atol=1e-4)
    dynamic = campaign(finished, tmp_path / "dynamic", finished.file, engine={"batch": 1})
    assert summary.faults == dynamic.faults
    with Run(tmp_path / "run") as one, Run(tmp_path / "dynamic") as other:
        assert list(one.results["outcome"]) == list(other.results["outcome"])


@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_files_have_campaigns(kind: str, finished: Finished, tmp_path: Path) -> None:
    dtype = quantised(kind, finished.file, tmp_path / "vit.onnx")
    weights = {"where": "weight", "sites": ["block.1.mlp.fc2.weight"]}
    sections = [*faults(bits=[1, 6]), *faults(bits=[1, 6], **weights)]
    summary = campaign(finished, tmp_path / "run", tmp_path / "vit.onnx", engine={"precision": "int8"}, faults=sections)
    assert summary.zero_fault.mismatches == 0
    agreeing = golden(tmp_path / "run").argmax(1) == torch_logits(finished).argmax(1)
    assert agreeing.mean() > 0.9
    with Run(tmp_path / "run") as opened:
        formats = {site: opened.sites()[site].format_name for site in ("block.0.norm1", "block.1.mlp.fc2.weight")}
    assert formats == {"block.0.norm1": dtype, "block.1.mlp.fc2.weight": "int8"}


def test_half_precision_throughout_has_a_campaign(finished: Finished, tmp_path: Path) -> None:
    file = formed(finished, tmp_path, "fp16 throughout")
    with pytest.raises(UsageError, match=r"set engine.precision = 'fp16'"):
        campaign(finished, tmp_path / "wrong", file)
    gates = {"zero_fault_rows": 32, "drift_max_abs": 0.05}
    summary = campaign(finished, tmp_path / "run", file, engine={"precision": "fp16"}, gates=gates)
    assert summary.zero_fault.mismatches == 0
    np.testing.assert_allclose(golden(tmp_path / "run"), torch_logits(finished), rtol=0, atol=0.05)
