"""``testbed fuzziness`` and ``testbed train --fuzziness-every``: what people and scripts read, what is in the folder."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from testbed.core.folder.runfolder import RunFolder
from testbed.data import load
from testbed.models.runs import MODEL, open_model_run
from testbed.sensitivity.fuzziness.layers import layer_fuzziness
from testbed.sensitivity.fuzziness.separation import separation_fuzziness as measure
from testbed.train import checkpoint, loop
from tests.data.conftest import idx_bytes
from tests.support.commands import answer_of, invoke

SMALL = ["--set", "heads=2", "--set", "mlp=8", "--set", "width=8", "--set", "head_width=4", "--set", "patch=4"]
NAMES = ["pixels", "block.0", "block.1", "block.2", "logits"]


def train(folder, *arguments, dataset="digits", preset="digits"):
    return invoke("train", preset, "--dataset", dataset, "--run", folder, *arguments)


def small(folder, *arguments):
    return train(folder, "--set", "batch=128", "--set", "select=last", *SMALL, *arguments)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A small model whose epochs 2, 4 and 5 were recorded."""
    folder = tmp_path_factory.mktemp("fuzziness") / "run"
    return folder, answer_of(small(folder, "--epochs", 5, "--fuzziness-every", 2, "--json"))


@pytest.fixture
def copied(recorded, tmp_path):
    return shutil.copytree(recorded[0], tmp_path / "copy")


def test_the_layers_of_the_folder_s_model_over_the_test_images(copied):
    report = answer_of(invoke("fuzziness", copied, "--json"))
    model, test = open_model_run(copied).model, load("digits").test
    assert {one["name"]: one["fuzziness"] for one in report["layers"]} == layer_fuzziness(model, test)
    assert [one["name"] for one in report["layers"]] == NAMES
    assert (report["images"], report["classes"], report["data"]) == (719, 10, "digits")
    pixels = test.batch(slice(None))
    assert report["layers"][0]["fuzziness"] == pytest.approx(measure(pixels, test.labels), rel=1e-9)
    interior = [one["fuzziness"] for one in report["layers"][1:-1]]
    line = np.polyfit([1, 2, 3], np.log(interior), 1)
    assert report["fits"]["separation"]["rho"] == pytest.approx(np.exp(line[0]))
    assert report["fits"].keys() >= {"exponential", "separation"}


def test_it_writes_a_table_and_a_picture_and_measures_once(copied, monkeypatch):
    first = invoke("fuzziness", copied)
    assert "separation fuzziness D" in first.stdout
    assert "law of separation: rho" in first.stdout
    assert "719 test images of digits" in first.stdout
    with open(copied / "fuzziness.csv") as file:
        assert [row["layer"] for row in csv.DictReader(file)] == NAMES
    with Image.open(copied / "fuzziness.png") as picture:
        assert picture.width > 1000
    written = (copied / "fuzziness.csv").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("testbed.sensitivity.fuzziness.artefacts.measure_layers", None)
        assert invoke("fuzziness", copied).stdout == first.stdout
    (copied / "fuzziness.csv").write_text("layer,fuzziness\npixels,0\n")
    assert invoke("fuzziness", copied).stdout == first.stdout
    assert (copied / "fuzziness.csv").read_bytes() == written


def test_some_layers_some_images_and_weighted_classes(copied):
    report = answer_of(
        invoke("fuzziness", copied, "--layers", "logits,block.1", "--images", 50, "--weighted", "--json")
    )
    assert [one["name"] for one in report["layers"]] == ["block.1", "logits"]
    assert (report["images"], report["classes"]) == (50, 10)
    assert report["fits"]["exponential"] is report["fits"]["separation"] is None
    assert "left out" in report["fits"]["why_not"]
    whole = answer_of(invoke("fuzziness", copied, "--json"))
    assert whole["layers"][2]["fuzziness"] != report["layers"][0]["fuzziness"]
    plain = answer_of(invoke("fuzziness", copied, "--weighted", "--json"))
    assert whole["layers"][2]["fuzziness"] != plain["layers"][2]["fuzziness"]


def test_a_campaign_s_folder_is_only_read(recorded, tmp_path):
    spec = {"data": {"name": "digits", "root": None, "preprocess": None}, "seed": 0}
    folder = RunFolder.claimed(tmp_path / "campaign", "campaign", "strikes", spec, [])
    with folder.locked():

        def copy():
            shutil.copy(recorded[0] / MODEL, folder / MODEL)

        folder.stage("train", {}, [MODEL], copy)
    before = {file: file.stat().st_mtime_ns for file in folder.path.rglob("*")}
    report = answer_of(invoke("fuzziness", folder.path, "--json"))
    assert report["layers"] == answer_of(invoke("fuzziness", recorded[0], "--json"))["layers"]
    assert {file: file.stat().st_mtime_ns for file in folder.path.rglob("*")} == before


def test_the_log_of_a_training_and_all_its_pictures(recorded):
    folder, report = recorded
    assert report["fuzziness"]["epochs"] == [2, 4, 5]
    with open(report["fuzziness"]["log"]) as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "train_loss", "train_accuracy", "test_accuracy", *NAMES]
    assert float(rows[-1]["test_accuracy"]) == pytest.approx(report["test_accuracy"])
    last = layer_fuzziness(open_model_run(folder).model, load("digits").test)
    assert {name: float(rows[-1][name]) for name in NAMES} == pytest.approx(last, rel=1e-6)
    epochs = {f"epoch-{n:04d}.png" for n in (2, 4, 5)}
    layers = {f"layer-{name}.png" for name in NAMES}
    others = {"log.csv", "epochs.gif", "epochs.png", "accuracy.png"}
    assert {file.name for file in (folder / "fuzziness").iterdir()} == epochs | layers | others
    with Image.open(folder / "fuzziness" / "epochs.gif") as animation:
        assert getattr(animation, "n_frames", 1) == 3
    outputs = RunFolder.existing(folder).manifest["stages"]["fuzziness-log"]["outputs"]
    assert outputs.keys() == {f"fuzziness/{name}" for name in epochs | layers | others}


def test_per_epoch_shows_what_was_recorded_and_measures_nothing(recorded, monkeypatch):
    folder, _ = recorded
    monkeypatch.setattr("testbed.sensitivity.fuzziness.artefacts.measure_run", None)
    report = answer_of(invoke("fuzziness", folder, "--per-epoch", "--json"))
    assert [row["epoch"] for row in report["epochs"]] == [2, 4, 5]
    assert [one["name"] for one in report["epochs"][0]["layers"]] == NAMES
    assert report["epochs"][0]["fits"]["separation"]["rho"] > 0
    text = invoke("fuzziness", folder, "--per-epoch", "--layers", "block.2").stdout
    assert "block.2" in text
    assert "block.1" not in text


def test_the_pictures_of_what_was_recorded_so_far_are_written_elsewhere(recorded, tmp_path):
    folder, _ = recorded
    unfinished = tmp_path / "run"
    (unfinished / "fuzziness").mkdir(parents=True)
    log = (folder / "fuzziness" / "log.csv").read_text().splitlines(keepends=True)
    (unfinished / "fuzziness" / "log.csv").write_text("".join(log[:3]))  # the last epoch is not trained yet
    claimed = RunFolder.claimed(tmp_path / "other", "model", "digits", {}, [])
    with claimed.locked():
        claimed.save()
    shutil.copy(tmp_path / "other" / "manifest.json", unfinished)
    assert invoke("fuzziness", unfinished, "--per-epoch", "--to", tmp_path / "to").exit_code == 0
    names = {file.name for file in (tmp_path / "to" / "fuzziness").iterdir()}
    assert {"log.csv", "epochs.gif", "epoch-0002.png", "epoch-0004.png", "layer-block.1.png"} <= names
    assert "epoch-0005.png" not in names
    with Image.open(tmp_path / "to" / "fuzziness" / "epochs.gif") as animation:
        assert getattr(animation, "n_frames", 1) == 2
    assert (tmp_path / "to" / "fuzziness" / "log.csv").read_text() == "".join(log[:3])
    assert {file.name for file in (unfinished / "fuzziness").iterdir()} == {"log.csv"}
    refused = invoke("fuzziness", folder, "--per-epoch", "--to", folder)
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "name another folder with --to" in refused.stderr


def test_the_same_training_again_changes_nothing(copied):
    before = {file: file.read_bytes() for file in copied.rglob("*") if file.is_file()}
    again = answer_of(small(copied, "--epochs", 5, "--fuzziness-every", 2, "--json"))
    assert again["fuzziness"]["epochs"] == [2, 4, 5]
    assert {file: file.read_bytes() for file in copied.rglob("*") if file.is_file()} == before


def test_an_edited_log_is_refused_and_a_lost_picture_is_drawn_again(copied):
    (copied / "fuzziness" / "epochs.gif").unlink()
    assert small(copied, "--epochs", 5, "--fuzziness-every", 2).exit_code == 0
    assert (copied / "fuzziness" / "epochs.gif").exists()
    log = copied / "fuzziness" / "log.csv"
    log.write_text(log.read_text().replace("0.", "0.9", 1))
    for done in (
        small(copied, "--epochs", 5, "--fuzziness-every", 2),
        invoke("fuzziness", copied, "--per-epoch"),
    ):
        assert done.exit_code == 1
        assert "log.csv was edited" in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_finished_training_is_not_said_to_have_recorded_more(copied, tmp_path):
    done = small(copied, "--epochs", 5, "--fuzziness-every", 1)
    assert done.exit_code == 2
    assert "epoch 1 was not recorded; train again: `testbed train ... --redo train`" in done.stderr
    again = answer_of(small(copied, "--epochs", 5, "--fuzziness-every", 3, "--redo", "train", "--json"))
    assert again["fuzziness"]["epochs"] == [3, 5]
    assert sorted(file.name for file in (copied / "fuzziness").glob("epoch-*")) == ["epoch-0003.png", "epoch-0005.png"]


def test_killed_between_log_and_checkpoint_it_goes_on_to_the_same_log(tmp_path, recorded, monkeypatch):
    def save(path, state, identity):
        if state.epoch == 4:
            raise KeyboardInterrupt
        checkpoint.save(path, state, identity)

    arguments = ["--epochs", 5, "--fuzziness-every", 2]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "save", save)
        assert small(tmp_path / "run", *arguments).exit_code == 130
    so_far = answer_of(invoke("fuzziness", tmp_path / "run", "--per-epoch", "--json"))
    assert [row["epoch"] for row in so_far["epochs"]] == [2, 4]
    assert answer_of(small(tmp_path / "run", *arguments, "--json"))["fuzziness"]["epochs"] == [2, 4, 5]
    logs = [(folder / "fuzziness" / "log.csv").read_text() for folder in (tmp_path / "run", recorded[0])]
    assert logs[0] == logs[1]


def test_seeds_are_averaged_over_layers_and_epochs(recorded, tmp_path):
    other = tmp_path / "seed-1"
    small(other, "--epochs", 4, "--fuzziness-every", 2, "--seed", 1)
    folders = [shutil.copytree(recorded[0], tmp_path / "seed-0"), other]
    singles = [answer_of(invoke("fuzziness", folder, "--json"))["layers"] for folder in folders]
    report = answer_of(invoke("fuzziness", *folders, "--average", "--to", tmp_path / "mean", "--json"))
    for place, one in enumerate(report["layers"]):
        pair = [layers[place]["fuzziness"] for layers in singles]
        assert one["name"] == NAMES[place]
        assert (one["fuzziness"], one["std"]) == pytest.approx((np.mean(pair), np.std(pair, ddof=1)))
    assert [row["epoch"] for row in report["epochs"]] == [2, 4]
    names = {"average.csv", "average.png", "average_epochs.csv", "average_epochs.png", "average_accuracy.png"}
    assert {file.name for file in (tmp_path / "mean").iterdir()} == names
    with open(tmp_path / "mean" / "average_epochs.csv") as file:
        rows = list(csv.DictReader(file))
    logs = []
    for folder in folders:
        with open(folder / "fuzziness" / "log.csv") as file:
            logs.append({row["epoch"]: float(row["block.1"]) for row in csv.DictReader(file)})
    assert float(rows[1]["block.1_mean"]) == pytest.approx(np.mean([log["4"] for log in logs]))
    assert float(rows[1]["block.1_std"]) == pytest.approx(np.std([log["4"] for log in logs], ddof=1))
    text = invoke("fuzziness", *folders, "--average").stdout
    assert "standard deviation" in text
    assert "2 models on 719 test images of digits" in text
    assert "±" in invoke("fuzziness", *folders, "--average", "--per-epoch").stdout


def test_only_like_models_are_averaged(copied, tmp_path):
    train(tmp_path / "other", "--epochs", 0, "--set", "heads=1")
    for folders, message in (
        ([copied, tmp_path / "other"], "another architecture"),
        ([copied], "two run folders or more"),
        ([copied, copied], "each of them once"),
    ):
        done = invoke("fuzziness", *folders, "--average")
        assert done.exit_code == 2
        assert message in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "block.9"], "no layer 'block.9'; layers: pixels, block.0"),
        (["--layers", "block.9", "--per-epoch"], "no layer 'block.9'; layers: pixels, block.0"),
        (["--images", 720], "720 images are asked for, and there are 719"),
        (["--images", 9], "9 images for 10 classes"),
        (["--images", 0], "0 is not in the range"),
        (["--device", "gpu"], "unknown device 'gpu'"),
        (["--to", "x"], "--to goes with --average"),
        (["--per-epoch", "--weighted"], "it takes no --images or --weighted"),
        (["nowhere"], "add --average"),
    ],
)
def test_a_wrong_request_is_one_line_and_writes_nothing(copied, arguments, message):
    before = sorted(copied.rglob("*"))
    done = invoke("fuzziness", copied, *arguments)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(copied.rglob("*")) == before


def test_what_was_never_recorded_or_has_no_data_says_the_fix(tmp_path):
    small(tmp_path / "run", "--epochs", 0)
    assert "train with --fuzziness-every N" in invoke("fuzziness", tmp_path / "run", "--per-epoch").stderr
    assert "holds no run" in invoke("fuzziness", tmp_path / "none").stderr
    done = small(tmp_path / "new", "--epochs", 0, "--fuzziness-every", 1)
    assert done.exit_code == 2
    assert "0 epochs train nothing that could be recorded" in done.stderr
    assert not (tmp_path / "new").exists()


def test_one_class_is_refused(tmp_path):
    for n in range(3):
        (tmp_path / "photos" / "cat").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 80 * n, np.uint8)).save(tmp_path / "photos" / "cat" / f"{n}.png")
    dataset = f"imagefolder:{tmp_path / 'photos'}"
    train(tmp_path / "run", "--epochs", 0, "--preprocess", "digits", *SMALL, dataset=dataset)
    done = invoke("fuzziness", tmp_path / "run")
    assert done.exit_code == 2, done.output
    assert "all 3 images are of class 0" in done.stderr


def test_weights_that_are_not_finite_name_the_layer(tmp_path):
    import torch

    from testbed.models.runs import DataSource, write_model_run
    from testbed.models.vit import ViT

    small(tmp_path / "run", "--epochs", 0)
    model = ViT(open_model_run(tmp_path / "run").model.config)
    with torch.no_grad():
        model.get_parameter("block.1.norm1.bias")[0] = torch.inf
    write_model_run(tmp_path / "bad", model, stage="import", name="bad", made_from={}, data=DataSource("digits"))
    done = invoke("fuzziness", tmp_path / "bad")
    assert done.exit_code == 2
    assert "layer block.1: the features hold NaN or infinity" in done.stderr
    assert not (tmp_path / "bad" / "fuzziness.csv").exists()


@pytest.fixture(scope="module")
def fashion_files(tmp_path_factory):
    """Real digits, scaled to 28 x 28, in the four files of Fashion-MNIST; the data folder."""
    root = tmp_path_factory.mktemp("data")
    images, labels = load_digits(return_X_y=True)
    pixels = (images.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    large = np.stack([np.asarray(Image.fromarray(one).resize((28, 28))) for one in pixels[:320]])
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, rows in (("train", slice(0, 240)), ("t10k", slice(240, 320))):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(large[rows]))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels[:320][rows]))
    return root


def fashion(root, folder, *arguments):
    return train(folder, "--root", root, *arguments, preset="fashion-mnist", dataset="fashion-mnist")


def test_the_published_study_runs_on_its_files_with_all_artefacts(fashion_files, tmp_path):
    report = answer_of(fashion(fashion_files, tmp_path / "run", "--epochs", 2, "--fuzziness-every", 1, "--json"))
    assert report["parameters"] == 239_306
    assert report["dataset"]["images"] == {"train": 216, "validation": 24, "test": 80}
    assert (report["recipe"]["optimiser"], report["recipe"]["learning_rate"], report["recipe"]["batch"]) == (
        "adam",
        1e-3,
        64,
    )
    assert report["fuzziness"]["epochs"] == [1, 2]
    written = {file.name for file in (tmp_path / "run" / "fuzziness").iterdir()}
    names = ["pixels", *(f"block.{n}" for n in range(7)), "logits"]
    assert written == {f"layer-{name}.png" for name in names} | {
        "log.csv",
        "epoch-0001.png",
        "epoch-0002.png",
        "epochs.gif",
        "epochs.png",
        "accuracy.png",
    }
    measured = answer_of(invoke("fuzziness", tmp_path / "run", "--json"))
    assert [one["name"] for one in measured["layers"]] == names
    assert measured["images"] == 80
    assert measured["fits"]["separation"]["r2"] > 0


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        (["optimiser=sgd"], ("recipe", "optimiser", "sgd")),
        (["dropout=0.1"], ("model", "dropout", 0.1)),
        (["width=32", "head_width=4"], ("model", "width", 32)),
        (["mlp=256"], ("model", "mlp", [256] * 7)),
        (["heads=4", "head_width=16"], ("model", "heads", [4] * 7)),
    ],
)
def test_every_sweep_of_the_study_is_a_setting(fashion_files, tmp_path, settings, shown):
    flags = [part for setting in settings for part in ("--set", setting)]
    report = answer_of(fashion(fashion_files, tmp_path / "run", *flags, "--dry-run", "--json"))
    part, key, value = shown
    assert report[part][key] == value


def test_a_sweep_over_the_mlp_width(fashion_files, tmp_path):
    sizes = []
    for mlp in (16, 32):
        arguments = ["--set", f"mlp={mlp}", "--set", "width=16", "--set", "head_width=2"]
        done = fashion(fashion_files, tmp_path / f"mlp-{mlp}", *arguments, "--epochs", 1, "--json")
        sizes.append(answer_of(done)["parameters"])
        assert answer_of(invoke("fuzziness", tmp_path / f"mlp-{mlp}", "--json"))["layers"][3]["fuzziness"] > 0
    assert sizes[1] - sizes[0] == 7 * 16 * (16 + 16 + 1)
