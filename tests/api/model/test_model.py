"""A model from Python: what the commands golden, tiers, subset, export and the like do, with the same answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import testbed
from testbed.core.errors import UsageError
from testbed.models.presets import preset
from testbed.models.runs import DataSource, open_model_run, write_model_run
from testbed.models.vit import ViT
from tests.support.commands import answer


@pytest.fixture(scope="module")
def trained(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny campaign's model in a folder of its own, with a golden of 320 images."""
    path = tmp_path_factory.mktemp("models") / "model"
    model = open_model_run(tiny_run).model
    write_model_run(path, model, stage="import", name="tiny", made_from={}, data=DataSource("digits"))
    testbed.Model(path).record_golden(images=320)
    return path


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> testbed.Model:
    return testbed.Model(shutil.copytree(trained, tmp_path / "model"))


def html_of(result: Any) -> str:
    text = str(result._repr_html_())
    assert text.count("<table>") == text.count("</table>") >= 1
    return text


def same(result: Any, record: Any) -> None:
    assert json.loads(json.dumps(result.to_json(), allow_nan=False)) == record


def test_a_golden_with_progress_is_the_commands(model: testbed.Model) -> None:
    counted: list[testbed.Snapshot] = []
    golden = model.record_golden(images=60, modules=[], progress=counted.append)
    same(golden, answer("golden", model.path, "--images", "60", "--logits-only"))
    assert golden.images == 60
    assert 0.5 < golden.accuracy <= 1
    assert golden.modules == []
    assert counted[-1].steps is not None
    assert counted[-1].steps.done == counted[-1].steps.total == 60
    assert "60" in html_of(golden)


def test_tiers_and_a_choice_of_images_are_the_commands(model: testbed.Model) -> None:
    tiers = model.sort_tiers([0.5, 1])
    same(tiers, answer("tiers", model.path, "--edges", ".5,1"))
    assert list(tiers.tiers.high) == [0.5, 1.0]
    html_of(tiers)
    subset = model.choose_images([0, 8], stratified=True, seed=3)
    same(subset, answer("subset", model.path, "--per-tier", "0,8", "--stratified", "--seed", "3"))
    assert len(subset.images) == 8
    html_of(subset)
    assert testbed.Model(model.path).verify_golden(engine="torch", atol=1e-5).record.images == 8


def test_an_engine_is_held_against_the_golden(model: testbed.Model) -> None:
    verified = model.verify_golden("attention", "torch", atol=1e-5)
    same(
        verified, answer("golden", "verify", model.path, "--target", "attention", "--engine", "torch", "--atol", "1e-5")
    )
    assert verified.passed
    assert verified.tiers.n.sum() <= 320
    html_of(verified)
    assert model.verify_golden("attention", "torch", atol=1e-5, inject=True).passed
    assert not model.verify_golden("attention", "ort-cpu", atol=0, rtol=0).passed


def test_an_export_and_its_twin_are_the_commands(model: testbed.Model, tmp_path: Path) -> None:
    exported = model.export(precision="fp32")
    same(exported, answer("export", model.path))
    assert exported.file.is_file()
    assert exported.parity.top1_agreement.dropna().eq(1).all()
    html_of(exported)
    made = testbed.instrument_model(exported.file, tmp_path / "twins", sites=["block.0.*"])
    same(made, answer("instrument", exported.file, "--sites", "block.0.*", "--to", tmp_path / "twins"))
    assert made.twin.is_file()
    assert made.sites.name.str.startswith("block.0.").all()
    assert "activation" in html_of(made)


def test_files_of_the_original_workflow_come_back(model: testbed.Model, tmp_path: Path) -> None:
    model.record_golden()
    golden, attention = model.export_originals(tmp_path / "files", "tiny")[:2]
    before = np.load(model.path / "golden" / "logits.npy")
    taken = model.import_originals(golden, attention=attention)
    assert taken.images == len(before)
    np.testing.assert_array_equal(np.load(model.path / "golden" / "logits.npy"), before)


def test_weights_for_other_tools_are_the_commands(tmp_path: Path) -> None:
    without_bias = ViT(preset("digits", qkv_bias=False))
    write_model_run(tmp_path / "model", without_bias, stage="import", name="x", made_from={}, data=None)
    model = testbed.Model(tmp_path / "model")
    for part in ("model", "attention"):
        ours = torch.load(model.export_weights(tmp_path / "ours.pth", part))
        answer("export-weights", model.path, "--to", tmp_path / "theirs.pth", "--part", part)
        theirs = torch.load(tmp_path / "theirs.pth")
        assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


def test_fuzziness_of_one_and_of_several(model: testbed.Model, tmp_path: Path) -> None:
    other = shutil.copytree(model.path, tmp_path / "other")
    measured = testbed.measure_fuzziness(model, images=60)
    same(measured, answer("fuzziness", model.path, "--images", "60"))
    assert measured.layers.name.iloc[-1] == "logits"
    assert measured.fits.keys() == {"exponential", "separation", "why_not"}
    html_of(measured)
    mean = testbed.measure_fuzziness([model.path, other], images=60, to=tmp_path / "average")
    assert (mean.layers["std"] == 0).all()
    assert (tmp_path / "average" / "average.csv").is_file()
    with pytest.raises(UsageError, match="of several"):
        testbed.measure_fuzziness(model, to=tmp_path / "x")


def test_models_side_by_side(model: testbed.Model, tiny_run: Path, tmp_path: Path) -> None:
    compared = testbed.compare_models([model.path], to=tmp_path / "page", batch=1, seconds=0.01, runs=6)
    record = json.loads((tmp_path / "page" / "metrics.json").read_text())
    same(compared, record)
    assert compared.recommended == str(model.path)
    assert list(compared.table.model) == [str(model.path)]
    assert compared.why in html_of(compared).replace("&#x27;", "'")
    with pytest.raises(UsageError, match="name one model"):
        testbed.compare_models([])


def test_a_model_shows_itself_and_passes_for_its_folder(model: testbed.Model, tmp_path: Path) -> None:
    assert repr(model) == f"<testbed.Model in '{model.path}'>"
    assert "golden" in html_of(model)
    assert len(testbed.rank_components(model, by="eap", of="head", images=20).scores) > 0
    with pytest.raises(UsageError):
        testbed.Model(tmp_path / "nothing")
