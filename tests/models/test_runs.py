import json
from typing import Any

import pytest
import torch

from testbed.core.errors import StaleArtefact, UsageError
from testbed.core.folder.runfolder import RunFolder
from testbed.models.presets import preset
from testbed.models.runs import MODEL, DataSource, claim_model_run, open_model_run, write_model_run
from testbed.models.vit import ViT


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ViT(preset("digits")).eval()


def written(path, model, **changes):
    values: dict[str, Any] = {
        "stage": "import",
        "name": "some.pth",
        "made_from": {"file": "abc"},
        "data": DataSource("digits"),
    }
    return write_model_run(path, model, **(values | changes))


def test_what_was_written_is_read_back(tmp_path, model):
    data = DataSource("digits", preprocess="half", seed=3)
    written(tmp_path / "run", model, data=data, facts={"assumed": ["3 heads"]})
    run = open_model_run(tmp_path / "run")
    assert (run.stage, run.data) == ("import", data)
    assert all(torch.equal(a, b) for a, b in zip(run.model.parameters(), model.parameters(), strict=True))
    assert not run.model.training
    assert run.folder.manifest["stages"]["import"]["facts"] == {"assumed": ["3 heads"]}


def test_the_same_again_changes_nothing_and_another_is_refused(tmp_path, model):
    first = written(tmp_path / "run", model)
    manifest = (tmp_path / "run/manifest.json").read_text()
    again = written(tmp_path / "run", model)
    assert again.model_hash == first.model_hash
    assert json.loads(manifest)["stages"] == again.folder.manifest["stages"]
    for changes in ({"made_from": {"file": "other"}}, {"data": DataSource("mnist")}, {"name": "another"}):
        with pytest.raises(UsageError, match="another run"):
            written(tmp_path / "run", model, **changes)


def test_an_edited_model_is_refused_by_name(tmp_path, model):
    written(tmp_path / "run", model)
    path = tmp_path / "run" / MODEL
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(StaleArtefact, match=r"model\.safetensors was edited"):
        _ = open_model_run(tmp_path / "run").model


def test_paths_are_absolute_so_that_the_folder_works_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = DataSource("imagefolder:photos/test", root="data")
    assert data == DataSource(f"imagefolder:{tmp_path}/photos/test", root=f"{tmp_path}/data")
    assert DataSource("digits").name == "digits"


def test_without_data_none_is_recorded(tmp_path, model):
    written(tmp_path / "run", model, data=None)
    assert open_model_run(tmp_path / "run").data is None


def test_a_campaign_folder_can_be_read_as_a_model(tmp_path, model):
    spec = {"data": {"name": "digits", "root": None, "preprocess": None}, "seed": 7}
    folder = RunFolder.claimed(tmp_path / "run", "campaign", "digits", spec, [])
    with folder.locked():
        from testbed.models.weights import save_model

        folder.save()
        folder.stage("train", {}, [MODEL], lambda: save_model(folder / MODEL, model))
    run = open_model_run(tmp_path / "run")
    assert (run.stage, run.data) == ("train", DataSource("digits", seed=7))


def test_folders_without_a_model_are_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no run"):
        open_model_run(tmp_path)
    folder = claim_model_run(tmp_path / "run", "vit", {}, None)
    with folder.locked():
        folder.save()
    with pytest.raises(UsageError, match="holds no model yet"):
        open_model_run(tmp_path / "run")
