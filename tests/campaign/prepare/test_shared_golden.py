"""A campaign's golden: made once per model, and of the attention only what is struck there."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from testbed.api.progress_text import lines
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.prepare import module_golden
from testbed.campaign.prepare import torch_model as torch_subject
from testbed.campaign.prepare.stages import Preparation
from testbed.campaign.results.kept import describe_kept
from testbed.campaign.results.progress import Progress
from testbed.campaign.results.snapshot import Snapshot
from testbed.campaign.spec.campaign import CampaignSpec, parse_spec
from testbed.cli.main import cli
from testbed.cli.watch import StageLines
from testbed.core.folder.runfolder import RunFolder
from testbed.golden.arrays import read_array
from testbed.golden.recording import record_golden
from testbed.golden.reference import LOGITS, module_files, record_reference
from testbed.models.runs import MODEL, DataSource, write_model_run
from testbed.models.weights import load_model
from testbed.sweep.noise import NoiseEngines
from tests.support.campaigns import prepared

BOTH = ("inputs/attention.npy", "golden/attention.npy")


def refuse(*args: object, **options: object) -> None:
    raise AssertionError("the model was run once more")


@pytest.fixture
def whole(tiny_run: Path, tiny_spec: CampaignSpec, tmp_path: Path) -> Path:
    """The attention's input and output for all test images, recorded in one go."""
    test = Preparation.finished(tiny_spec, RunFolder.existing(tiny_run)).dataset.test
    record_reference(load_model(tiny_run / MODEL), test, range(len(test)), tmp_path, modules=["block.0.attn"])
    return tmp_path


def test_the_attention_is_recorded_of_the_named_images_with_the_bits_of_all(
    tiny_run: Path, tiny_spec: CampaignSpec, whole: Path
) -> None:
    finished = Preparation.finished(tiny_spec, RunFolder.existing(tiny_run))
    assert list(finished.folder.manifest["stages"]["golden"]["outputs"]) == [LOGITS]
    for file, all_images in zip(BOTH, module_files("block.0.attn"), strict=True):
        assert np.array_equal(read_array(tiny_run / file), read_array(whole / all_images)[finished.images.positions])
    reference = finished.reference("attention")
    assert reference is not None
    assert np.array_equal(reference, read_array(tiny_run / BOTH[1]))


def test_a_second_campaign_of_the_same_model_runs_it_for_no_image(
    tiny_run: Path, tiny_spec: CampaignSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_subject, "record_reference", refuse)
    monkeypatch.setattr(module_golden, "record_module", refuse)
    other = parse_spec(tiny_spec.identity() | {"name": "other", "tolerance": {"atol": 1e-3}})
    second = prepared(other, tmp_path / "second")
    for file in (LOGITS, "tiers.json", *BOTH):
        assert (second.folder / file).read_bytes() == (tiny_run / file).read_bytes()


def test_testbed_golden_takes_a_campaign_s_and_the_other_way_round(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = DataSource("digits", seed=42)
    write_model_run(tmp_path / "m", load_model(tiny_run / MODEL), stage="import", name="m", made_from={}, data=source)
    with caplog.at_level(logging.INFO):
        logging.getLogger("testbed").propagate = True
        record_golden(tmp_path / "m", modules=())
    assert "golden: reused" in caplog.text
    assert (tmp_path / "m" / LOGITS).read_bytes() == (tiny_run / LOGITS).read_bytes()


def test_a_folder_whose_golden_is_of_all_images_goes_on_with_it(
    tiny_copy: Path, tiny_spec: CampaignSpec, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As folders were made before: the attention's input and output for every test image, in the golden stage."""
    folder, files = RunFolder.existing(tiny_copy), module_files("block.0.attn")
    before = {file: (tiny_copy / file).read_bytes() for file in BOTH}
    golden = folder.manifest["stages"]["golden"]
    del folder.manifest["stages"]["golden"]
    for file in files:
        shutil.copy(whole / file, tiny_copy / file)
    folder.stage("golden", golden["inputs"], [LOGITS, *files], lambda: golden["facts"])
    (tiny_copy / BOTH[1]).unlink()
    inputs = folder.manifest["stages"].pop("inputs.attention")["inputs"] | {
        "golden": folder.manifest["stages"]["golden"]["outputs"]
    }
    folder.stage("inputs.attention", inputs, [BOTH[0]], lambda: None)
    old = Preparation.finished(tiny_spec, folder)
    monkeypatch.setattr(module_golden, "record_module", refuse)
    reference = old.reference("attention")
    assert reference is not None
    named = read_array(whole / files[1])[old.images.positions]
    assert np.array_equal(reference, named)
    images = NoiseEngines(Workplace(folder, tiny_spec)).images("attention", 5)
    rows = np.arange(len(images.ids))
    assert np.array_equal(images.golden(rows), read_array(whole / files[1])[images.position])
    for file in BOTH:  # interrupted before its inputs were written
        (tiny_copy / file).unlink(missing_ok=True)
    folder.redo("inputs.attention", list(folder.manifest["stages"]))
    old.write_inputs("attention")
    assert {file: (tiny_copy / file).read_bytes() for file in BOTH} == before


def test_noise_of_more_images_than_the_named_ones(tiny_run: Path, tiny_spec: CampaignSpec, whole: Path) -> None:
    images = NoiseEngines(Workplace(RunFolder.existing(tiny_run), tiny_spec)).images("attention", 5)
    rows = np.array([0, 3, len(images.ids) - 1])
    assert len(images.ids) > 6
    for found, file in zip((images.inputs, images.golden), module_files("block.0.attn"), strict=True):
        assert np.array_equal(found(rows), read_array(whole / file)[images.position[rows]])


def test_a_campaign_s_attention_is_verified_though_it_is_not_recorded(tiny_run: Path) -> None:
    command = ["golden", "verify", str(tiny_run), "--target", "attention", "--atol", "1e-5"]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    assert "of 719 images" in done.stdout


# ---- progress


def test_progress_is_told_in_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock, seen = [100.0], list[Snapshot]()
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    logged = StageLines()

    def show(snapshot: Snapshot) -> None:
        seen.append(snapshot)
        logged.show(snapshot)

    with caplog.at_level(logging.INFO):
        logging.getLogger("testbed").propagate = True
        with Progress(tmp_path, show).watch("golden", 1000, "images") as advance:
            for _ in range(4):
                clock[0] += 10
                advance(100)
            told = describe_kept(tmp_path)
    assert [s.steps.done for s in seen if s.steps] == [0, 100, 200, 300, 400, 400]
    last = seen[-1].steps
    assert last is not None
    assert (last.per_second, last.eta_s) == (10, 60)
    assert lines(seen[-1])[0].endswith("400 of 1,000 images (40 %), 10/s, about 1 min to go")
    assert set(caplog.messages) == {"golden: 300 of 1,000 images (30 %), 10/s, about 1 min 10 s to go"}
    assert told == "golden (400 of 1,000 images) begins anew; no stage was done yet"


def test_what_is_kept_is_told_of_the_stage_it_ended_in(gated: Path) -> None:
    assert describe_kept(gated).startswith("kept: train, golden, tiers")
    folder = RunFolder.existing(gated)
    folder.stage("plan", {}, [], dict)
    assert describe_kept(gated) == "every finished batch is kept"
    folder.stage("execute", {}, [], dict)
    assert describe_kept(gated) == "all rows are kept"
