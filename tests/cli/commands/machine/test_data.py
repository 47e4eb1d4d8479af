"""``testbed data``: what people and scripts read from it."""

import json

import numpy as np
import pytest
from PIL import Image

from testbed.data import load
from testbed.data.warn_once import forget_warnings
from tests.support.commands import invoke


@pytest.fixture
def class_folders(tmp_path):
    """Writes one small image per class; returns the folder."""

    def write(names):
        for name in names:
            (tmp_path / "photos" / name).mkdir(parents=True)
            Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(tmp_path / "photos" / name / "0.png")
        return tmp_path / "photos"

    return write


def test_list_says_what_is_missing_and_how_to_get_it(tmp_path):
    done = invoke("data", "list", "--root", tmp_path, "--json")
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    by_name = {entry["name"]: entry for entry in report["data_sets"]}
    assert by_name["digits"]["found"] is True
    assert by_name["cifar10"]["found"] is False
    assert str(tmp_path / "cifar-10-batches-py/data_batch_1") in by_name["cifar10"]["missing"]
    assert f"testbed data check cifar10 --download --root {tmp_path}" in by_name["cifar10"]["get"]
    assert by_name["imagefolder:PATH"]["found"] is None
    text = invoke("data", "list", "--root", tmp_path).stdout
    assert all(name in text for name in by_name)


def test_check_describes_what_is_there():
    report = json.loads(invoke("data", "check", "digits", "--full", "--json").stdout)
    assert report["found"] is True
    assert report["images"] == {"train": 898, "validation": 180, "test": 719}
    assert set(report["sha256"]) == {"train", "validation", "test"}
    text = invoke("data", "check", "digits").stdout
    assert "10 of 719 test images were decoded; --full decodes all" in text
    assert "898 train, 180 validation, 719 test" in text


def test_check_of_a_missing_data_set_fails_with_one_line(tmp_path):
    done = invoke("data", "check", "mnist", "--root", tmp_path)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: data set 'mnist': ")
    assert done.stderr.count("\n") == 1
    done = invoke("data", "check", "mnist", "--root", tmp_path, "--json")
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert report["found"] is False
    assert len(report["missing"]) == 4
    assert "--download" in report["get"]


def test_full_check_finds_the_one_bad_image(tmp_path):

    (tmp_path / "cat").mkdir()
    for name in ("a", "b"):
        pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "cat" / f"{name}.png")
    bad = tmp_path / "cat/b.png"
    bad.write_bytes(bad.read_bytes()[:-100])
    assert invoke("data", "check", f"imagefolder:{tmp_path}").exit_code == 0
    done = invoke("data", "check", f"imagefolder:{tmp_path}", "--full")
    assert done.exit_code == 1
    assert f"image {bad} cannot be decoded" in done.stderr


def test_files_that_cannot_be_decoded_are_left_out_where_that_is_asked_for(class_folders, caplog):
    folder = class_folders(["cat", "dog"])
    name = f"imagefolder:{folder}"
    good = load(name).test.sha256()
    for bad in ("cat/cut.png", "dog/none.jpg"):
        (folder / bad).write_bytes(b"\x89PNG\r\n")
    done = invoke("data", "check", name, "--full")
    assert done.exit_code == 1
    assert "cut.png cannot be decoded" in done.stderr
    assert "(1 more cannot be used, either); or leave such files out: --full --leave-out" in done.stderr
    assert not (folder / "left-out.txt").exists()
    done = invoke("data", "check", name, "--full", "--leave-out", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["sha256"]["test"] == good
    assert (folder / "left-out.txt").read_text() == "cat/cut.png\ndog/none.jpg\n"
    forget_warnings()
    assert load(name).test.sha256() == good
    assert "names 2 images, which are left out" in caplog.text
    assert invoke("data", "check", name, "--leave-out").exit_code == 2
    assert invoke("data", "check", "digits", "--full", "--leave-out").exit_code == 2


def test_check_finds_every_file_that_is_no_image_at_all(class_folders):
    folder = class_folders(["cat", "dog"])
    assert "2 of 2 files begin as images" in invoke("data", "check", f"imagefolder:{folder}").stdout
    bad = [folder / "cat" / "x.png", folder / "dog" / "y.jpg"]
    bad[0].write_text("<html>not found</html>")
    bad[1].touch()
    done = invoke("data", "check", f"imagefolder:{folder}")
    assert done.exit_code == 1
    assert f"image {bad[0]} cannot be decoded (1 more of 4 files cannot, either): replace the files" in done.stderr


@pytest.mark.parametrize("arguments", [("check", "imagenet"), ("check",), ("list", "--rot", "x")])
def test_usage_errors(arguments):
    done = invoke("data", *arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")


def test_help_has_an_example():
    for command in ((), ("list",), ("check",)):
        assert "testbed data" in invoke("data", *command, "-h").stdout


def test_check_takes_preprocessing_and_the_order_of_classes(class_folders):
    folder = class_folders(["0", "1", "2", "10"])
    stated = "resize=squash,size=7,crop=0.9,interpolation=bicubic,mean=0.5,std=0.25"
    done = invoke("data", "check", f"imagefolder:{folder}", "--preprocess", stated, "--classes", "natural")
    assert done.exit_code == 0
    assert "4 classes: 0, 1, 2, 10" in done.stdout
    assert "preprocess stated: both sides to 7 (bicubic), centre 7, values / 255, mean 0.5, std 0.25" in done.stdout
    report = json.loads(invoke("data", "check", f"imagefolder:{folder}", "--preprocess", stated, "--json").stdout)
    assert report["classes"] == ["0", "1", "10", "2"]
    assert report["preprocess"]["interpolation"] == "bicubic, antialiased"
    for option, value in (("--preprocess", "crop=2,mean=0,std=1"), ("--classes", "nowhere.txt")):
        done = invoke("data", "check", f"imagefolder:{folder}", option, value)
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
