"""A campaign on the attention module of a block of a file that this project did not export.

Oracle: the PyTorch module, by forward hooks and with a weight changed by hand.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from testbed.campaign.files import TIERS
from testbed.campaign.folder.images import named_images
from testbed.campaign.pipeline import run_campaign
from testbed.campaign.prepare import module_golden
from testbed.campaign.prepare.onnx_file import OnnxSubject
from testbed.campaign.prepare.recorded import RecordedSubject
from testbed.campaign.prepare.stages import Preparation
from testbed.campaign.prepare.subjects import subject_of
from testbed.campaign.results.store import ResultStore
from testbed.campaign.run import Run
from testbed.campaign.spec.campaign import parse_spec
from testbed.campaign.summary.record import Summary
from testbed.campaign.work.worker_setup import WorkerSetup
from testbed.cli.main import cli
from testbed.compat.exporters import quiet
from testbed.core.errors import UsageError
from testbed.core.folder.runfolder import RunFolder
from testbed.data import load
from testbed.golden.arrays import read_array
from testbed.instrument.adopt.file import adopt
from testbed.instrument.cut.module import cut_attention
from testbed.instrument.sites.catalogue import catalogue
from testbed.report.page import build_report
from tests.support.exporters import randomised
from tests.support.libraries import Seen, imported


@dataclass(frozen=True)
class Finished:
    model: nn.Module
    attention: nn.Module
    file: Path
    folder: Path
    summary: Summary
    values: dict[str, Any]


def spec_values(file: Path, **changes: Any) -> dict[str, Any]:
    section = {"target": "attention", "ops": ["flip"]}
    return {
        "name": "theirs",
        "seed": 3,
        "data": {"name": "digits"},
        "model": {"onnx": str(file)},
        "attention": {"block": 1},
        "tiers": {"edges": [0.5, 1.0], "images": [3, 3]},
        "engine": {"batch": 16, "unit": 16},
        "gates": {"allow_chance_accuracy": True, "zero_fault_rows": 32},
        "tolerance": {"atol": 1e-4, "rtol": 1e-4},
        "faults": [
            section | {"where": "activation", "bits": [0, 20, 30], "per_stratum": 3},
            section | {"where": "weight", "sites": ["*.weight"], "bits": [20, 30], "per_stratum": 3},
        ],
        **changes,
    }


def exported(model: nn.Module, file: Path) -> Path:
    with quiet():
        names: dict[str, Any] = {"input_names": ["image"], "output_names": ["logits"]}
        batch = {"image": {0: "batch"}, "logits": {0: "batch"}}
        torch.onnx.export(model, (torch.zeros(2, 1, 16, 16),), str(file), dynamo=False, dynamic_axes=batch, **names)
    return file


def run(values: dict[str, Any], folder: Path) -> Summary:
    return run_campaign(parse_spec(values), folder, worker_setup=WorkerSetup(0))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    torch.set_num_threads(1)
    library = imported("timm.models.vision_transformer")
    sizes = {"img_size": 16, "patch_size": 8, "in_chans": 1, "num_classes": 10}
    model = randomised(library.VisionTransformer(**sizes, embed_dim=32, depth=2, num_heads=2))
    base = tmp_path_factory.mktemp("theirs")
    file = exported(model, base / "vit.onnx")
    values = spec_values(file)
    return Finished(model, model.get_submodule("blocks.1.attn"), file, base / "run", run(values, base / "run"), values)


@pytest.fixture(scope="module")
def rows(finished: Finished) -> pd.DataFrame:
    with Run(finished.folder) as opened:
        return opened.results


def test_the_module_is_fed_and_judged_by_what_the_whole_file_holds(finished: Finished) -> None:
    test = load("digits", image=16, seed=3).test
    images = test.batch(named_images(finished.folder / TIERS).positions)
    seen = Seen(finished.model, torch.from_numpy(images))
    for file, wanted in (("inputs", seen.fed(finished.attention)), ("golden", seen.out(finished.attention))):
        have = read_array(finished.folder / file / "attention.npy")
        np.testing.assert_allclose(have, wanted.numpy(), rtol=1e-4, atol=1e-4)
    pairs = {record.pair: record for record in finished.summary.parity}
    assert set(pairs) == {"whole-plain", "plain-twin"}
    assert pairs["whole-plain"].max_abs_diff <= pairs["whole-plain"].bound
    assert finished.summary.zero_fault.mismatches == 0


def test_faults_are_those_of_this_block_and_are_followed_no_further_than_they_reach(
    finished: Finished, rows: pd.DataFrame
) -> None:
    assert set(rows["target"]) == {"attention"}
    assert set(rows["block"]) == {1}
    assert all(site.startswith("block.1.attn.") for site in rows["site"].unique())
    proofs = json.loads((finished.folder / "manifest.json").read_text())["stages"]["gates"]["facts"]["evaluation"]
    assert proofs["attention"]["by"] == "attention"
    assert rows["outcome"].astype(str).nunique() > 1


def test_weight_faults_deviate_as_in_the_module_changed_by_hand(finished: Finished, rows: pd.DataFrame) -> None:
    inputs = torch.from_numpy(np.array(read_array(finished.folder / "inputs" / "attention.npy")))
    ids = named_images(finished.folder / TIERS).ids
    checked = 0
    for row in rows[(rows["where"].astype(str) == "weight") & (rows["bit"] == 20)].to_dict("records"):
        clean: Any = finished.attention
        faulty = copy.deepcopy(clean)
        weight = faulty.get_submodule(row["site"].split(".")[3]).weight
        flat = weight.detach().numpy().reshape(-1).view(np.uint32)
        flat[row["index"]] ^= np.uint32(1 << 20)
        image = inputs[ids.index(row["image_id"])][None]
        with torch.no_grad():
            moved = float((faulty(image) - clean(image)).abs().max())
        assert row["max_abs_diff"] == pytest.approx(moved, rel=1e-2, abs=1e-5)
        checked += 1
    assert checked > 10


def test_a_fault_is_replayed_and_is_the_stored_one(finished: Finished, rows: pd.DataFrame) -> None:
    of_both = [rows[rows["where"].astype(str) == where]["fault_id"].iloc[0] for where in ("activation", "weight")]
    for number in of_both:
        done = CliRunner().invoke(cli, ["fault", "replay", str(finished.folder), str(number), "--json"])
        assert done.exit_code == 0, done.output
        replayed = json.loads(done.stdout)
        assert replayed["same_as_stored"] is True
        assert replayed["site"].startswith("block.1.attn.")


def test_half_done_it_goes_on_without_the_file(
    finished: Finished, rows: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, folder = tmp_path / "vit.onnx", tmp_path / "run"
    shutil.copy(finished.file, file)
    values = spec_values(file)

    written, appended = 0, ResultStore.append

    def append(self: ResultStore, *arguments: Any, **options: Any) -> Any:
        nonlocal written
        written += 1
        if written > 2:
            raise KeyboardInterrupt
        return appended(self, *arguments, **options)

    monkeypatch.setattr(ResultStore, "append", append)
    with pytest.raises(KeyboardInterrupt):
        run(values, folder)
    monkeypatch.undo()
    file.unlink()
    assert RunFolder.existing(folder).manifest["stages"].get("execute") is None
    assert isinstance(subject_of(parse_spec(values), RunFolder.existing(folder)), RecordedSubject)
    run(values, folder)
    with Run(folder) as opened:
        columns = ["fault_id", "image_id", "outcome", "max_abs_diff", "live_word"]
        chosen = [name for name in columns if name in rows.columns]
        keys = ["fault_id", "image_id"]
        pd.testing.assert_frame_equal(
            opened.results[chosen].astype({"image_id": str}).sort_values(keys).reset_index(drop=True),
            rows[chosen].astype({"image_id": str}).sort_values(keys).reset_index(drop=True),
        )


def test_report_plan_and_tolerance_sweep_work_on_it(finished: Finished, tmp_path: Path) -> None:
    page = build_report(finished.folder).read_text()
    assert "softmax" in page
    toml = tmp_path / "theirs.toml"
    toml.write_text(
        f'name = "theirs"\nseed = 3\n[data]\nname = "digits"\n[model]\nonnx = "{finished.file}"\n[attention]\nblock = 0\n'
        '[[faults]]\ntarget = "attention"\nwhere = "activation"\n'
    )
    planned = CliRunner().invoke(cli, ["campaign", "plan", str(toml), "--json"])
    assert planned.exit_code == 0, planned.output
    assert "block.0.attn" in planned.stdout
    assert "block.1" not in planned.stdout
    folder = shutil.copytree(finished.folder, tmp_path / "copy")
    swept = CliRunner().invoke(cli, ["sweep", str(folder), "--noise-images", "5", "--json"])
    assert swept.exit_code == 0, swept.output


def test_a_block_that_is_not_there_or_that_nobody_strikes_is_refused(finished: Finished, tmp_path: Path) -> None:
    spec = parse_spec(spec_values(finished.file, attention={"block": 7}))
    with pytest.raises(
        UsageError, match=r"vit\.onnx: no attention of a block 7 is recognised; those of blocks 0, 1 are"
    ):
        Preparation(spec, RunFolder.claimed(tmp_path / "run", "campaign", spec.name, spec.identity(), []))
    model = [{"target": "model", "where": "activation"}]
    with pytest.raises(UsageError, match="no section has"):
        parse_spec(spec_values(finished.file, faults=model))


def test_a_module_without_named_sites_is_struck_at_tensors_that_are_named(finished: Finished) -> None:
    module = cut_attention(catalogue(adopt(finished.file).plain), "vit.onnx", 1)
    nameless = replace(module, catalogue=replace(module.catalogue, recognised=()))
    spec = parse_spec(finished.values)
    with pytest.raises(UsageError, match=r"no names of sites; name some by their own, such as /blocks/blocks\.1/attn/"):
        module_golden.module_table(spec, nameless, None, ["*"])
    table = module_golden.module_table(spec, nameless, None, ["/blocks/blocks.1/attn/*"])
    assert len(table.ports) > 5
    assert all(name.startswith("/blocks/blocks.1/attn/") for name in table.ports)


def test_an_engine_that_rounds_elsewhere_then_is_told(
    finished: Finished, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)
    both = tmp_path / "inputs.npy", tmp_path / "outputs.npy"
    spec, folder = parse_spec(finished.values), RunFolder.existing(finished.folder)
    test = OnnxSubject.of(spec, None).dataset.test
    positions = named_images(finished.folder / TIERS).positions
    caplog.clear()
    module_golden.write_cut_values(spec, folder, test, positions, both, lambda *_: _quietly())
    assert caplog.text == ""
    assert both[0].read_bytes() == (finished.folder / "inputs" / "attention.npy").read_bytes()
    monkeypatch.setattr(module_golden, "read_array", lambda path: read_array(path) + np.float32(0.5))
    module_golden.write_cut_values(spec, folder, test, positions, both, lambda *_: _quietly())
    assert "the engine's logits differ by 0.5 from its own" in caplog.text


def _quietly() -> Any:
    return contextlib.nullcontext(lambda images: None)
