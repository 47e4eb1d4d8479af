"""A campaign on a file that this project did not export: timm's ViT, trained in PyTorch, written by timm's own exporter.

Oracle: the PyTorch model with the same weight or activation changed by hand.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from onnx import numpy_helper

from testbed.campaign.pipeline import run_campaign
from testbed.campaign.preview.dry_run import dry_run_plan
from testbed.campaign.run import Run
from testbed.campaign.spec.campaign import parse_spec
from testbed.campaign.work.worker_setup import WorkerSetup
from testbed.core.errors import StaleArtefact
from testbed.core.folder.runfolder import RunFolder
from testbed.data import load
from testbed.instrument.sites.catalogue import catalogue
from tests.support.foreign_campaigns import FC1_OUTPUT, Finished, run
from tests.support.records import records


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
