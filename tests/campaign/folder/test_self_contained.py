"""A run folder that was copied away from its model and its data: it tells, shows and injects what it did before."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

import testbed
from testbed.ber.run import prepared
from testbed.campaign.pipeline import run_campaign
from testbed.campaign.spec.campaign import CampaignSpec, load_spec
from testbed.campaign.work.worker_setup import WorkerSetup
from testbed.cli.main import cli
from testbed.compare.campaigns import compare_campaigns
from testbed.compare.engine_record import EngineComparison
from testbed.core.errors import StaleArtefact, TestbedError, UsageError
from testbed.core.folder.files import sha256_file, sha256_json
from testbed.core.folder.runfolder import RunFolder
from testbed.golden.source import dataset_of as model_data
from testbed.models.runs import DataSource, open_model_run
from testbed.report.rebuild import rebuild_report
from testbed.sweep.run import SweepRequest, sweep_campaign
from testbed.train import recipe
from testbed.train.runs import TrainingPlan, train_run
from tests.support.progress import no_progress

SPEC = """
name = "{name}"
seed = 3

[model]
{model}

{data}

[tiers]
edges = [1.0]
images = [4]

[engine]
batch = 8

[gates]
zero_fault_rows = 16
test_accuracy = 0.9

[tolerance]
atol = 1e-4

[[faults]]
target = "model"
where = "activation"
sites = ["head", "block.0.attn.softmax"]
bits = [30, 31]
per_stratum = 6

[[faults]]
target = "model"
where = "weight"
sites = ["head.bias"]
bits = [30]
per_stratum = 3
"""


@dataclass(frozen=True)
class Machine:
    """``home``: a folder with photos/, runs/ and specs/, in which one user works."""

    home: Path

    def campaign(self, name: str) -> Path:
        return self.home / "runs" / name

    def spec(self, name: str) -> Path:
        return self.home / "specs" / f"{name}.toml"


NAMES = ["trained", "file"]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """Its campaigns: "trained", on a trained model's folder, which says which photos it is for; and "file", on an ONNX
    file. Their paths are relative: to the home folder, and to the spec's."""
    home = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 10)):
        for label, name in enumerate(("dark", "light")):
            folder = home / "photos" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 90, (8, 8, 3)) + 150 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02d}.png")
    small = {"heads": [2], "mlp": [32], "width": 16, "head_width": 8}
    source = DataSource(f"imagefolder:{home / 'photos'}")
    plan = TrainingPlan.of(
        "digits", source, recipe("digits", epochs=60, learning_rate=0.01, input_noise=0.0), overrides=small
    )
    train_run(plan, home / "runs" / "model")
    (home / "specs").mkdir()
    tables = {
        "trained": ('run = "runs/model"', ""),
        "file": ('onnx = "model.onnx"', '[data]\nname = "imagefolder:../photos"'),
    }
    before = Path.cwd()
    os.chdir(home)
    try:
        for name in NAMES:
            model, data = tables[name]
            spec = home / "specs" / f"{name}.toml"
            spec.write_text(SPEC.format(name=name, model=model, data=data))
            run_campaign(load_spec(spec), home / "runs" / name, worker_setup=WorkerSetup(0))
            shutil.copy(home / "runs" / "trained" / "model.onnx", home / "specs" / "model.onnx")
    finally:
        os.chdir(before)
    return Machine(home)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def elsewhere(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Another machine: it was given the campaigns' folders and the specs, and nothing else."""
    home = tmp_path / "another"
    for name in NAMES:
        shutil.copytree(machine.campaign(name), home / "runs" / name)
        (home / "specs").mkdir(exist_ok=True)
        shutil.copy(machine.spec(name), home / "specs")
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    away = machine.home.with_name(machine.home.name + "-away")
    machine.home.rename(away)
    yield Machine(home)
    away.rename(machine.home)


def shown(path: Path) -> dict[str, Any]:
    result = CliRunner().invoke(cli, ["campaign", "show", str(path), "--json"])
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_its_summary_is_shown_and_its_page_is_the_same(machine: Machine, elsewhere: Machine, name: str) -> None:
    copy = elsewhere.campaign(name)
    summary = shown(copy)
    assert summary["model"]["test_images"] == 20
    assert (summary["data"]["name"], summary["data"]["classes"]) == ("imagefolder:photos", ["dark", "light"])
    text = CliRunner().invoke(cli, ["campaign", "show", str(copy)]).stdout
    assert f"{summary['faults']:,} faults" in text
    page = rebuild_report(copy).read_bytes()
    assert b"data:image/png" in page
    away = machine.home.with_name(machine.home.name + "-away")
    assert page == rebuild_report(away / "runs" / name).read_bytes()


def test_every_stored_row_is_replayed_and_faults_are_injected(elsewhere: Machine, name: str) -> None:
    rows = pq.read_table(elsewhere.campaign(name) / "results.parquet").to_pandas()
    with testbed.open_run(elsewhere.campaign(name)) as run:
        for row in rows.sample(12, random_state=0).itertuples():
            hits = [run.replay(row.fault_id, row.image_id)]
            if row.op != "random":
                hits.append(run.inject(row.site, row.index, int(row.bit), row.image_id, op=row.op))
            for hit in hits:
                assert (hit.outcome, hit.faulty.tobytes()) == (row.outcome, row.logits.tobytes())


def test_it_goes_on_where_it_stopped_and_gives_the_same_rows(elsewhere: Machine, name: str) -> None:
    copy = elsewhere.campaign(name)
    rows, before = sha256_file(copy / "results.parquet"), shown(copy)
    sources = (copy / "sources.json").read_bytes()
    folder = RunFolder.existing(copy)
    folder.redo("gates", list(folder.manifest["stages"]))
    folder.save()
    for file in ("faults.parquet", "results.parquet", "summary.json"):
        (copy / file).unlink()
    summary = run_campaign(load_spec(elsewhere.spec(name)), copy, worker_setup=WorkerSetup(0))
    assert sha256_file(copy / "results.parquet") == rows
    assert (copy / "sources.json").read_bytes() == sources  # where they were, as they are nowhere here
    for key in ("model", "data", "tiers", "marginals", "strata", "statement"):
        assert summary.to_json()[key] == before[key]


def test_a_sweep_is_the_same(machine: Machine, elsewhere: Machine, name: str) -> None:
    away = machine.home.with_name(machine.home.name + "-away")
    folders = (elsewhere.campaign(name), away / "runs" / name)
    here, there = (sweep_campaign(folder, SweepRequest(noise=("twin",)), no_progress) for folder in folders)
    assert here == there


def test_two_copies_are_compared(machine: Machine, elsewhere: Machine, name: str) -> None:
    away = machine.home.with_name(machine.home.name + "-away")
    found = compare_campaigns(elsewhere.campaign(name), away / "runs" / name)
    assert isinstance(found, EngineComparison)
    assert (found.disagreements.listed, found.notes) == ([], [])


def test_a_preset_is_neither_trained_nor_timed_again(
    tiny_copy: Path, tiny_spec: CampaignSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    before = (tiny_copy / "manifest.json").read_bytes()
    assert run_campaign(tiny_spec, tiny_copy, worker_setup=WorkerSetup(0)).to_json() == shown(tiny_copy)
    assert (tiny_copy / "manifest.json").read_bytes() == before
    assert not (tmp_path / "empty").exists()


def test_a_folder_of_before_opens_and_goes_on(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier versions recorded paths in full and kept no pictures."""
    monkeypatch.chdir(machine.home)
    copy = Path(shutil.copytree(machine.campaign("file"), tmp_path / "old"))
    (copy / "sources.json").unlink()
    (copy / "pictures.parquet").unlink()
    folder, spec = RunFolder.existing(copy), load_spec(machine.spec("file"))
    del folder.manifest["stages"]["pictures"]
    folder.manifest |= {"spec": spec.identity(), "identity": sha256_json(spec.identity())}
    folder.save()
    with testbed.open_run(copy) as run:
        assert run.replay(0).outcome == run.results.query("fault_id == 0")["outcome"].iloc[0]
    assert run_campaign(spec, copy, worker_setup=WorkerSetup(0)).to_json() == shown(copy)
    assert (copy / "pictures.parquet").is_file()


def test_what_needs_the_data_says_so(elsewhere: Machine, name: str) -> None:
    with pytest.raises(TestbedError, match=r"asks for more than the run folder holds: data set .*photos.* is missing"):
        _ = prepared(elsewhere.campaign(name)).dataset


def test_nothing_in_it_names_the_folders_of_the_machine(machine: Machine, name: str) -> None:
    for file in machine.campaign(name).rglob("*"):
        if file.is_file() and file.name != "sources.json":
            assert str(machine.home).encode() not in file.read_bytes(), file.name


def test_commands_on_models_name_the_folder_of_the_one_that_it_is_on(machine: Machine) -> None:
    with pytest.raises(UsageError, match=rf"a campaign on a trained model; .*: {machine.home}/runs/model$"):
        model_data(open_model_run(machine.campaign("trained")))


def test_its_sources_are_found_from_any_folder(
    machine: Machine, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(prepared(machine.campaign(name)).dataset.test) == 20


def test_a_spec_that_states_only_the_number_of_images_has_the_models_data(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(machine.home)
    spec = load_spec(machine.spec("trained"), ["data.images=12", "data.preprocess=half"])
    run_campaign(spec, tmp_path / "part", worker_setup=WorkerSetup(0))
    told = shown(tmp_path / "part")["data"]
    assert told["name"] == "imagefolder:photos"
    whole = prepared(machine.campaign("trained")).dataset
    part = prepared(tmp_path / "part").dataset
    assert len(part.test) == 12
    assert set(part.test.ids) < set(whole.test.ids)
    assert (whole.preprocess.name, part.preprocess.name) == ("none", "half")
    with testbed.open_run(tmp_path / "part") as run:
        assert run.replay(0).outcome == run.results.query("fault_id == 0")["outcome"].iloc[0]
    assert run_campaign(spec, tmp_path / "part", worker_setup=WorkerSetup(0)).to_json() == shown(tmp_path / "part")


def test_another_model_is_refused_wherever_it_lies(machine: Machine, elsewhere: Machine) -> None:
    """The paths are no part of what a campaign is: the content is."""
    away = machine.home.with_name(machine.home.name + "-away")
    away.rename(machine.home)
    try:
        other = elsewhere.home / "specs" / "model.onnx"
        content = (machine.home / "specs" / "model.onnx").read_bytes()
        other.write_bytes(content.replace(b"block.0.attn.q", b"block.0.attn.Q"))
        spec = elsewhere.spec("file")
        spec.write_text(spec.read_text().replace("../photos", str(machine.home / "photos")))
        with pytest.raises((StaleArtefact, UsageError), match="another plain"):
            run_campaign(load_spec(spec), elsewhere.campaign("file"), worker_setup=WorkerSetup(0))
    finally:
        machine.home.rename(away)
