"""Which images a campaign takes from a data set that lies in class folders: all classes, not the first one's."""

from __future__ import annotations

import logging
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from testbed.analysis.outputs.confidence import TierEdges, first_of_each, tiers_from_logits
from testbed.ber.run import chosen_images, named_images
from testbed.campaign.folder.images import TiersFile
from testbed.campaign.folder.workplace import Workplace
from testbed.campaign.prepare.precisions import plain_in
from testbed.campaign.prepare.stages import Preparation
from testbed.campaign.prepare.subjects import subject_of
from testbed.campaign.spec.campaign import CampaignSpec, parse_spec
from testbed.campaign.summary.summarise import tiers_of
from testbed.cli.tables.summary import tier_text
from testbed.core.errors import GateFailed, UsageError
from testbed.core.folder.files import write_json
from testbed.core.folder.runfolder import RunFolder
from testbed.data import load
from testbed.export.calibration import calibration_split
from testbed.export.precision import Calibration
from testbed.golden.arrays import read_array
from testbed.golden.deploy import deploy
from testbed.golden.recording import record_golden
from testbed.golden.reference import LOGITS
from testbed.models.runs import MODEL, DataSource, write_model_run
from testbed.models.weights import load_model
from testbed.sweep.noise import NoiseEngines
from tests.support.campaigns import prepared

SECTION = {"target": "model", "where": "activation", "sites": ["head"], "per_stratum": 1}


@pytest.fixture(scope="module")
def by_class(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digits, sorted by class: as a folder of class folders is read."""
    digits = load("digits", seed=42)
    arrays: dict[str, Any] = {}
    for name, split in (("train", digits.train), ("val", digits.validation), ("test", digits.test)):
        order = np.argsort(split.labels, kind="stable")
        arrays[f"{name}_images"] = np.stack([split.pixels(i) for i in order])
        arrays[f"{name}_labels"] = split.labels[order]
    path = tmp_path_factory.mktemp("data") / "sorted.npz"
    np.savez(path, classes=np.array(digits.classes), **arrays)
    return f"npz:{path}"


@pytest.fixture(scope="module")
def model_run(by_class: str, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny campaign's model, said to be for the sorted digits."""
    path = tmp_path_factory.mktemp("model") / "run"
    source = DataSource(by_class, preprocess="digits", seed=9)
    write_model_run(path, load_model(tiny_run / MODEL), stage="import", name="tiny", made_from={}, data=source)
    return path


def spec_of(run: Path, **values: Any) -> CampaignSpec:
    tiers = {"edges": [0.5, 1.0], "images": [20, 30]}
    return parse_spec({"name": "sorted", "model": {"run": str(run)}, "tiers": tiers, "faults": [SECTION]} | values)


@pytest.fixture(scope="module")
def finished(model_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Preparation:
    return prepared(spec_of(model_run), tmp_path_factory.mktemp("campaign") / "run")


def test_each_tier_has_its_classes_in_proportion(finished: Preparation) -> None:
    named, labels = finished.images, finished.dataset.test.labels
    for tier, wanted in enumerate((20, 30)):
        mine, have = named.labels[named.tiers == tier], finished.tiers.positions[tier]
        held, there = Counter(mine.tolist()), Counter(labels[have].tolist())
        assert sum(held.values()) == wanted
        assert held.keys() == there.keys()
        assert all(abs(held[c] - wanted * there[c] / len(have)) < 1.5 or held[c] == 1 for c in held)
    assert len(set(named.labels.tolist())) == 10
    assert (named.labels == labels[named.positions]).all()


def test_another_seed_names_others_and_the_same_seed_the_same(finished: Preparation) -> None:
    def named(seed: int) -> list[int]:
        other = Preparation(finished.spec.model_copy(update={"seed": seed}), finished.folder)
        return [p for tier in range(2) for p in np.sort(other.tier_order(tier)[: (20, 30)[tier]]).tolist()]

    assert named(finished.spec.seed) == finished.images.positions.tolist()
    assert len(set(named(1)) & set(named(2))) < 40


def test_noise_is_of_the_named_images_and_of_more_that_are_chosen_alike(finished: Preparation) -> None:
    engine = NoiseEngines(Workplace(finished.folder, finished.spec))
    few, many = engine.images("model", 10), engine.images("model", 60)
    assert few.position.tolist() == finished.images.positions.tolist()
    assert np.bincount(many.tier).tolist() == [60, 60]
    assert set(few.position) < set(many.position)
    labels = finished.dataset.test.labels
    assert set(labels[many.position[many.tier == 1]]) == set(labels[finished.tiers.positions[1]])
    assert np.array_equal(many.inputs(np.arange(3)), finished.dataset.test.batch(many.position[:3]))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({}, r"data\.preprocess is not stated: .* has none: .*; the model's folder has digits: .*; state the one"),
        (
            {"preprocess": "digits"},
            r"data\.classes is not stated: .* class 0 is '0', and the model's folder has '9'",
        ),
    ],
)
def test_a_spec_s_data_are_prepared_as_the_model_s_were_or_as_it_states(
    by_class: str, tiny_run: Path, tmp_path: Path, data: dict[str, Any], told: str
) -> None:
    """The model's folder says how it was imported; the data set's own way is not taken in silence."""
    source = DataSource(by_class, preprocess="digits", classes=tuple("9876543210"))
    write_model_run(tmp_path / "m", load_model(tiny_run / MODEL), stage="import", name="m", made_from={}, data=source)
    with pytest.raises(UsageError, match=told):
        subject_of(spec_of(tmp_path / "m", data={"name": by_class, **data}))
    stated = {"name": by_class, "preprocess": "half", "classes": "text"}
    dataset = subject_of(spec_of(tmp_path / "m", data=stated)).dataset
    assert (dataset.preprocess.name, dataset.classes) == ("half", list("0123456789"))


def test_a_part_of_the_test_images_is_of_all_classes(by_class: str, model_run: Path) -> None:
    data = {"name": by_class, "preprocess": "digits", "images": 60}
    test = subject_of(spec_of(model_run, data=data, seed=3)).dataset.test
    assert len(test) == len(set(test.ids)) == 60
    assert np.bincount(test.labels).tolist() == [6] * 10
    whole = load(by_class, preprocess="digits").test
    assert test.ids != subject_of(spec_of(model_run, data=data, seed=4)).dataset.test.ids
    assert [whole.labels[whole.position(image)] for image in test.ids] == test.labels.tolist()


def test_a_bit_error_rate_is_of_all_classes(finished: Preparation) -> None:
    asked = chosen_images(finished.dataset.test, 40, seed=0)
    assert np.bincount(named_images(asked).labels).tolist() == [4] * 10
    assert chosen_images(finished.dataset.test, None, seed=0) is finished.dataset.test


def test_an_int8_campaign_is_of_the_file_that_export_writes(
    finished: Preparation, model_run: Path, tmp_path: Path
) -> None:
    spec = spec_of(model_run, engine={"precision": "int8", "calibration_images": 50})
    campaign = prepared(spec, tmp_path / "int8").folder
    exporting = Path(shutil.copytree(model_run, tmp_path / "model"))
    record_golden(exporting, images=(0, 9))
    deployed = deploy(exporting, "model", "int8", calibration=Calibration(50))
    assert (campaign / "model.onnx").read_bytes() == Path(deployed.file).read_bytes()
    assert campaign.manifest["stages"]["export.model"]["inputs"]["calibration"] == deployed.calibration
    fp32 = spec_of(model_run, engine={"calibration_images": 50})
    assert plain_in(Workplace(finished.folder, fp32), "model", "int8") == Path(deployed.file).read_bytes()


@pytest.mark.parametrize("named", [False, True])
def test_int8_is_calibrated_on_all_classes(
    model_run: Path, by_class: str, named: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from testbed.data import Split

    seen: list[list[int]] = []
    batch = Split.batch

    def noting(self: Split, positions: Any) -> Any:
        if "/train/" in self.ids[0]:
            seen.append(self.labels[positions].tolist())
        return batch(self, positions)

    monkeypatch.setattr(Split, "batch", noting)
    engine = {"precision": "int8", "calibration_images": 50} | ({"calibration_data": by_class} if named else {})
    spec = spec_of(model_run, engine=engine)
    preparation = Preparation(spec, RunFolder.claimed(tmp_path / "run", "campaign", "sorted", {}, []))
    with preparation.folder.locked():
        preparation.folder.save()
        preparation.subject.make_golden(preparation.folder)
        preparation.subject.make_plain(preparation.folder, "model")
    assert [np.bincount(labels).tolist() for labels in seen] == [[5] * 10]
    recorded = preparation.folder.manifest["stages"]["export.model"]["inputs"]["calibration"]
    assert recorded["source"] == ("npz:sorted.npz" if named else "train")  # no path of this machine
    assert ("calibration_data" in spec.identity()["engine"]) == named


def test_images_of_another_data_set_are_read_as_the_models_own(by_class: str, tmp_path: Path) -> None:
    own, other = load(by_class, preprocess="digits", seed=9), load(by_class, seed=9)
    assert not np.array_equal(own.train.batch([0]), other.train.batch([0]))
    chosen = calibration_split(own, Calibration(20, source=by_class))
    mine = calibration_split(own, Calibration(20))
    assert chosen.ids == mine.ids
    assert np.array_equal(chosen.batch(slice(None)), mine.batch(slice(None)))
    colour = tmp_path / "colour.npz"
    np.savez(colour, images=np.zeros((4, 8, 8, 3), np.uint8), labels=np.arange(4))
    with pytest.raises(UsageError, match=r"have 1 channel\(s\) and those of .* 3"):
        calibration_split(own, Calibration(20, source=f"npz:{colour}"))
    empty = replace(own, train=own.train.subset([]))
    with pytest.raises(UsageError, match=r"--calibration-data \(in a spec: engine\.calibration_data\)"):
        calibration_split(empty, Calibration(20))


# ---- campaigns that were begun before the choice was a random one


def test_a_campaign_goes_on_with_the_images_that_it_was_begun_with(
    finished: Preparation, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec, path = finished.spec, Path(shutil.copytree(finished.folder.path, tmp_path / "old"))
    folder, test = RunFolder.existing(path), finished.dataset.test
    tiers = tiers_from_logits(read_array(path / LOGITS), test.labels, TierEdges(spec.tiers.edges))
    first = first_of_each(tiers, spec.tiers.images)
    for stage in ("tiers", "pictures", "inputs.model"):
        del folder.manifest["stages"][stage]
    inputs = {"logits": folder.output_hash("golden", LOGITS), "edges": [0.5, 1.0], "images": [20, 30]}
    with folder.locked():
        folder.stage(
            "tiers",
            inputs,
            ["tiers.json"],
            lambda: write_json(path / "tiers.json", TiersFile.of(tiers, test.ids, first, test.labels).to_json()),
        )
    with caplog.at_level(logging.WARNING):
        again = prepared(spec, path)
    assert again.images.positions.tolist() == first.tolist()
    assert "begun with the first images of each tier" in caplog.text


def test_a_tier_with_too_few_images_gives_all_it_has_unless_they_must_be_exact(
    model_run: Path, finished: Preparation, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    have = len(finished.tiers.positions[1])
    tiers = {"edges": [0.5, 1.0], "images": [20, have + 5]}
    spec = spec_of(model_run, tiers=tiers)
    with caplog.at_level(logging.WARNING):
        preparation = prepared(spec, tmp_path / "few")
    assert (
        f"tiers: (0.5, 1] has {have} of the {have + 5} images that were asked for; all of them are taken" in caplog.text
    )
    named = preparation.images
    assert np.bincount(named.tiers).tolist() == [20, have]
    assert named.positions[:20].tolist() == finished.images.positions[:20].tolist()
    told = tiers_of(preparation)
    assert [(tier.images, tier.asked, tier.thin) for tier in told] == [
        (20, None, False),
        (have, have + 5, True),
    ]
    assert tier_text(told[1]) == f"(0.5, 1] {have} of {have}, {have + 5} asked for (thin: wide intervals)"
    assert "exact" not in spec.identity()["tiers"]  # folders of before are the same
    with pytest.raises(UsageError, match=rf"tier 1 \(0\.5, 1\] has {have} images and {have + 5} were asked for"):
        prepared(spec_of(model_run, tiers=tiers | {"exact": True}), tmp_path / "exact")


def test_one_class_is_warned_of(model_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiers = {"edges": [0.5, 1.0], "images": [0, 1]}
    with caplog.at_level(logging.WARNING):
        prepared(spec_of(model_run, tiers=tiers), tmp_path / "one")
    assert "all 1 images are of one class" in caplog.text


# ---- a model that only guesses


@pytest.fixture(scope="module")
def guessing_run(by_class: str, model_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as another's preprocessing or class order leaves it: its answers have nothing to do with the images."""
    model, path = load_model(model_run / MODEL), tmp_path_factory.mktemp("guessing") / "run"
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.arange(10))
    source = DataSource(by_class, preprocess="digits", seed=9)
    write_model_run(path, model, stage="import", name="tiny", made_from={"head": 0}, data=source)
    return path


def test_a_model_that_only_guesses_is_refused(guessing_run: Path, tmp_path: Path) -> None:
    with pytest.raises(GateFailed) as caught:
        prepared(spec_of(guessing_run), tmp_path / "run")
    assert re.match(r"test accuracy \d+\.\d\d % \[.*\] of 719 images is no more than guessing gives", str(caught.value))
    assert "set gates.allow_chance_accuracy = true" in str(caught.value)
    assert caught.value.exit_code == 3


def test_it_is_injected_all_the_same_where_the_spec_allows_it(
    guessing_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiers = {"edges": [1.0], "images": [5]}
    allowed = spec_of(guessing_run, gates={"allow_chance_accuracy": True}, tiers=tiers)
    with caplog.at_level(logging.WARNING):
        preparation = prepared(allowed, tmp_path / "run")
    assert len(preparation.images) == 5
    assert "no more than guessing gives" in caplog.text
    assert allowed.identity()["gates"]["allow_chance_accuracy"] is True
    assert "allow_chance_accuracy" not in spec_of(guessing_run).identity()["gates"]  # folders of before are the same
