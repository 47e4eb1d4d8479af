"""``testbed train``: what is in the folder, and what people and scripts read."""

import csv
import io
import sys
import time
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from testbed.cli.commands.model import train as command
from testbed.data import load
from testbed.models.runs import DataSource, open_model_run
from testbed.train import EpochRecord, evaluate
from testbed.train.progress import progress_bar
from tests.support.commands import answer_of, invoke
from tests.support.terminals import Terminal

SMALL = ["--set", "heads=[2]", "--set", "mlp=[16]", "--set", "width=16"]


def run(folder, *arguments, preset="digits", dataset="digits"):
    return invoke("train", preset, "--dataset", dataset, "--run", folder, *arguments, *SMALL)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train") / "run"
    return folder, answer_of(run(folder, "--epochs", 3, "--seed", 7, "--set", "learning_rate=1e-2", "--json"))


def test_the_folder_holds_model_curves_and_manifest(trained):
    folder, report = trained
    names = {path.name for path in folder.iterdir()} - {".lock"}
    assert names == {"model.safetensors", "curves.csv", "curves.png", "manifest.json"}
    opened = open_model_run(folder)
    assert (opened.stage, opened.data) == ("train", DataSource("digits", seed=7))
    assert opened.model.config.width == report["model"]["width"] == 16
    test = evaluate(opened.model, load("digits", seed=7).test)
    assert report["test_accuracy"] == test.accuracy
    assert report["recipe"]["learning_rate"] == 1e-2
    assert report["parameters"] == sum(p.numel() for p in opened.model.parameters())
    with Image.open(folder / "curves.png") as picture:
        assert picture.width > 600


def test_the_table_of_curves_reads_back(trained):
    folder, report = trained
    rows = list(csv.DictReader(io.StringIO((folder / "curves.csv").read_text())))
    values: list[dict[str, Any]] = [{key: float(value) for key, value in row.items()} for row in rows]
    records = [EpochRecord(**row) for row in values]
    assert [record.epoch for record in records] == [1, 2, 3]
    assert records[report["best_epoch"] - 1].validation_accuracy == report["validation_accuracy"]
    kept = evaluate(open_model_run(folder).model, load("digits", seed=7).validation)
    assert records[report["best_epoch"] - 1].validation_loss == kept.loss


def test_the_same_command_again_changes_nothing(trained):
    folder, report = trained
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    again = run(folder, "--epochs", 3, "--seed", 7, "--set", "learning_rate=1e-2", "--json")
    assert answer_of(again) == report
    assert "epoch 1" not in again.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_people_read_a_line_per_epoch_and_the_accuracy(tmp_path):
    done = run(tmp_path / "run", "--epochs", 2)
    assert done.exit_code == 0
    assert done.stderr.startswith("epoch 1: loss ")
    assert done.stderr.count("\n") == 2
    assert "epoch 2 of 2 kept: validation accuracy" in done.stdout
    assert "test accuracy" in done.stdout


def test_another_training_does_not_overwrite(trained):
    folder, _ = trained
    before = (folder / "model.safetensors").read_bytes()
    done = run(folder, "--epochs", 3, "--seed", 8)
    assert done.exit_code == 2
    assert "holds another run" in done.stderr
    assert (folder / "model.safetensors").read_bytes() == before


def test_zero_epochs_write_seeded_random_weights(tmp_path):
    reports = [answer_of(run(tmp_path / str(n), "--epochs", 0, "--seed", n // 2, "--json")) for n in range(4)]
    models = [(tmp_path / str(n) / "model.safetensors").read_bytes() for n in range(4)]
    assert models[0] == models[1] != models[2] == models[3]
    assert reports[0]["epochs"] == reports[0]["best_epoch"] == 0
    assert not (tmp_path / "0" / "curves.csv").exists()
    assert "random weights" in run(tmp_path / "0", "--epochs", 0).stdout


def test_dry_run_says_what_and_writes_nothing(tmp_path):
    done = run(tmp_path / "run", "--dry-run", "--set", "batch=50")
    assert done.exit_code == 0
    assert "would train digits" in done.stdout
    assert "898 training" in done.stdout
    assert "batch 50" in done.stdout
    report = answer_of(run(tmp_path / "run", "--dry-run", "--set", "batch=50", "--json"))
    assert report["recipe"]["batch"] == 50
    assert not (tmp_path / "run").exists()


def test_interrupted_it_says_how_to_go_on_and_does(tmp_path, monkeypatch):
    arguments = ["--epochs", 4, "--set", "select=best"]
    whole = answer_of(run(tmp_path / "whole", *arguments, "--json"))

    def interrupt(epoch, model, record):
        if epoch == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "say_epoch", interrupt)
        done = run(tmp_path / "run", *arguments)
    assert done.exit_code == 130
    assert done.stderr == "error: interrupted; every finished epoch is kept; go on with the same command\n"
    assert not (tmp_path / "run" / "model.safetensors").exists()
    done = run(tmp_path / "run", *arguments, "--json")
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["epoch 3", "epoch 4"]
    changing = {"run": "", "seconds": 0}
    assert answer_of(done) | changing == whole | changing
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "run")]
    assert models[0] == models[1]
    assert not (tmp_path / "run" / "training.checkpoint").exists()


def test_an_edited_model_is_refused_and_redo_repairs_it(tmp_path):
    arguments = ["--epochs", 1]
    run(tmp_path / "run", *arguments)
    model = tmp_path / "run" / "model.safetensors"
    good = model.read_bytes()
    model.write_bytes(good[:-4])
    done = run(tmp_path / "run", *arguments)
    assert done.exit_code == 1
    assert "model.safetensors was edited or truncated" in done.stderr
    assert "--redo train" in done.stderr
    assert run(tmp_path / "run", *arguments, "--redo", "train").exit_code == 0
    assert model.read_bytes() == good


def test_the_model_takes_channels_and_classes_from_the_images(tmp_path):
    random = np.random.default_rng(0)
    for name in ("cat", "dog", "eel"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for n in range(4):
            pixels = random.integers(0, 256, (9, 9, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{n}.png")
    dataset = f"imagefolder:{tmp_path / 'photos'}"
    report = answer_of(run(tmp_path / "run", "--epochs", 0, "--preprocess", "cifar10", "--json", dataset=dataset))
    config = open_model_run(tmp_path / "run").model.config
    assert (config.channels, config.classes, config.image) == (3, 3, 8)
    assert report["dataset"]["preprocess"]["name"] == "cifar10"
    assert open_model_run(tmp_path / "run").data == DataSource(dataset, preprocess="cifar10")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "adamw"], "unknown recipe 'adamw'; known: digits, fashion-mnist"),
        (["--set", "epoch=3"], "unknown key 'epoch'; did you mean 'epochs'? Known keys of the recipe epochs, batch"),
        (["--set", "name=mine"], "unknown key 'name'"),
        (["--set", "batch"], "write KEY=VALUE"),
        (["--set", "batch=many"], "batch must be a whole number, not 'many'"),
        (["--set", "augmentation=mixup"], "unknown augmentation 'mixup'"),
        (["--set", "norm_order=middle"], "norm_order must be one of pre, post"),
        (["--set", "width=-1"], "model: width must be"),
        (["--set", "width=wide"], "model: width must be"),
        (["--set", "classes=3"], "the model's classes is 3, data set 'digits' has 10"),
        (["--preprocess", "tidy"], "unknown preprocess 'tidy'"),
        (["--epochs", "-1"], "-1 is not in the range"),
        (["--device", "gpu"], "unknown device 'gpu'"),
    ],
)
def test_a_wrong_request_is_one_line_and_writes_nothing(tmp_path, arguments, message):
    done = invoke("train", "digits", "--dataset", "digits", "--run", tmp_path / "run", *arguments)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("names", [("digit", "digits"), ("digits", "digit")])
def test_unknown_presets_and_data_sets_list_the_known(tmp_path, names):
    done = run(tmp_path / "run", preset=names[0], dataset=names[1])
    assert done.exit_code == 2
    assert "unknown" in done.stderr
    assert "digits" in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_bar_is_shown_on_a_terminal_only(monkeypatch, tiny, digits, quick):
    for stream, wanted, shown in (
        (Terminal(), True, True),
        (Terminal(), False, False),
        (io.StringIO(), True, False),
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress_bar("training", 100, 40, wanted) as advance:
            advance(30, "epoch 2 of 3")
            advance(30, "epoch 3 of 3")
        text = stream.getvalue()
        assert ("epoch 3 of 3" in text and "left" in text) == shown
        assert bool(text) == shown


def test_the_bar_of_a_long_training_is_whole_in_80_columns(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "80")
    ran = "epoch 300 of 300, validation 96.7 %"
    with progress_bar("training", 300 * 50_000, 299 * 50_000, True) as advance:
        advance(100, ran)
        time.sleep(0.01)  # some thousand images a second
        advance(100, ran)
    assert ran in stream.getvalue()
    assert "…" not in stream.getvalue()


@pytest.mark.gpu
def test_on_a_gpu_it_learns_with_amp_and_resumes(tmp_path, digits, tiny, quick):
    from testbed.train import train

    chosen = quick.with_(epochs=30, learning_rate=1e-2, amp=True)
    trained = train(tiny, digits, chosen, seed=0, device="cuda", checkpoint=tmp_path / "training.checkpoint")
    assert evaluate(trained.model, digits.test).accuracy > 0.3
    assert {p.device.type for p in trained.model.parameters()} == {"cpu"}
    again = train(tiny, digits, chosen, seed=0, device="cuda", checkpoint=tmp_path / "training.checkpoint")
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), trained.model.parameters(), strict=True))
    assert again.curves == trained.curves


def test_fewer_training_images_are_a_choice_by_class(tmp_path):
    done = answer_of(run(tmp_path / "run", "--epochs", 1, "--train-images", 100, "--json"))
    whole = load("digits")
    assert done["dataset"]["images"] == {"train": 100, "validation": 20, "test": 719} | {
        "validation": round(len(whole.validation) * 100 / len(whole.train))
    }
    part = whole.with_train_images(100)
    assert set(part.train.ids) < set(whole.train.ids)
    assert set(part.validation.ids) < set(whole.validation.ids)
    assert set(np.bincount(part.train.labels)) == {10}


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (9, "9 training images are too few for 10 classes; ask for 10 or more"),
        (5000, "5,000 training images are asked"),
    ],
)
def test_too_few_or_too_many_training_images_are_one_line(tmp_path, images, message):
    done = run(tmp_path / "run", "--train-images", images)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
