"""``testbed golden``, ``tiers`` and ``subset``: the shapes that scripts read, exit codes, one-line errors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.commands import answer, error_of, invoke


def refusal(*arguments: Any, exit_code: int = 2) -> str:
    return error_of(invoke(*arguments), exit_code)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Seeded random weights for digits, as `testbed train --epochs 0` writes them."""
    answer("train", "digits", "--dataset", "digits", "--epochs", 0, "--run", tmp_path / "run")
    return tmp_path / "run"


def test_from_golden_to_verification(run: Path) -> None:
    golden = answer("golden", run)
    assert golden["images"] == 719
    assert 0 < golden["accuracy"] < 0.4
    tiers = answer("tiers", run, "--tiers", 5)
    assert {"correct", "incorrect", "tiers"} <= set(tiers)
    assert [(t["low"], t["high"]) for t in tiers["tiers"]] == [(0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1)]
    assert sum(len(t["images"]) for t in tiers["tiers"]) == tiers["correct"] == 719 - tiers["incorrect"]
    subset = answer("subset", run, "--range", "10:400")
    assert subset["positions"] == list(range(10, 400))
    assert np.load(run / "subset/block.0.attn.output.npy").shape == (390, 17, 32)
    verify = ["golden", "verify", run, "--target", "attention", "--engine", "torch"]
    found = answer(*verify, "--atol", 5e-6)
    assert {"images", "faulty_images", "max_abs_diff", "tiers"} <= set(found)
    assert (found["images"], found["faulty_images"]) == (390, [])
    assert set(found["tiers"][0]) == {"low", "high", "n", "faulty", "max_abs_diff", "smallest_atol"}
    injected = answer(*verify, "--inject")
    assert injected["faulty_images"] == [150, 200, 201, 300]
    assert injected["max_abs_diff"] is None  # JSON has no infinity
    faulty = answer("golden", "verify", run, "--target", "model", "--atol", 0, "--rtol", 0, exit_code=3)
    assert faulty["faulty_images"]
    done = invoke("golden", "verify", run, "--target", "model", "--atol", 0, "--rtol", 0)
    assert done.exit_code == 3
    assert "images are not reproduced by ort-cpu" in done.stderr
    assert "[0, 0.2]" in done.stdout
    done = invoke(*verify, "--inject", "--atol", 0, "--rtol", 0, "--engine", "ort-cpu")
    assert done.exit_code == 3
    assert "injected images are [150, 200, 201, 300], but the comparison found" in done.stderr


def test_record_is_what_golden_does(run: Path) -> None:
    first = answer("golden", "--images", "0:30", run)
    assert (first["images"], first["range"]) == (30, [0, 30])
    assert answer("golden", "record", run, "--images", ":30") == first
    assert sum(first["classes"].values()) == 30
    assert "% of 30 images of 10 classes: 0 (" in invoke("golden", run, "--images", "0:30").stdout
    chosen = answer("golden", run, "--images", 20)
    assert (chosen["images"], chosen["range"], set(chosen["classes"].values())) == (20, None, {2})
    assert answer("golden", run, "--images", "0:30", "--logits-only")["modules"] == []
    assert answer("golden", run, "--images", "0:3", "--module", "block:1", "--module", "head")["modules"] == [
        "block.1",
        "head",
    ]


def test_help_of_the_group_shows_what_can_be_given_right_there() -> None:
    shown = invoke("golden", "-h").stdout
    for part in ("--images N|A:B", "--module", "verify", "export-originals", "testbed golden DIR"):
        assert part in shown


def test_originals_there_and_back(run: Path, tmp_path: Path) -> None:
    answer("golden", run, "--images", "0:60")
    answer("tiers", run)
    files = answer("golden", "export-originals", run, "--to", tmp_path / "files", "--name", "tiny")["files"]
    assert [Path(file).name for file in files] == ["golden_tiny.pt", "tiny_attn_dataset.pt", "tiny_cnf_corr_out4.pt"]
    answer("train", "digits", "--dataset", "digits", "--epochs", 0, "--run", tmp_path / "other")
    options = ["--golden", files[0], "--attention", files[1], "--tiers", files[2], "--images", "0:60"]
    assert answer("golden", "import-originals", tmp_path / "other", *options)["images"] == 60
    assert answer("tiers", tmp_path / "other") == answer("tiers", run)


def test_bad_requests_are_one_line(run: Path, tmp_path: Path) -> None:
    assert "holds no run" in refusal("golden", tmp_path / "nowhere")
    assert "no golden yet; run `testbed golden" in refusal("tiers", run, exit_code=1)
    answer("golden", run, "--images", "0:40")
    assert "no tiers yet; run `testbed tiers" in refusal("subset", run, "--per-tier", "1,1,1,1", exit_code=1)
    assert "must ascend" in refusal("tiers", run, "--edges", ".5,.4,1")
    assert "presets for 4 and 5" in refusal("tiers", run, "--tiers", 3)
    tiers = answer("tiers", run)
    too_many = len(tiers["tiers"][0]["images"]) + 1
    assert f"and {too_many} were asked for" in refusal("subset", run, "--per-tier", f"{too_many},0,0,0")
    assert "whole numbers separated by commas" in refusal("subset", run, "--per-tier", "1,x")
    assert "no range" in refusal("subset", run, "--range", "5")
    assert "no range" in refusal("golden", run, "--images", "9:3")
    assert "a number of images to choose" in refusal("golden", run, "--images", "many")
    assert "720 images are asked for, and there are 719" in refusal("golden", run, "--images", 720)
    assert "test images are 0:719" in refusal("golden", run, "--images", "0:9000")
    assert "no module 'bloc'" in refusal("golden", run, "--module", "bloc")
    assert "not both" in refusal("golden", run, "--module", "head", "--logits-only")
    assert "unknown engine 'trt'" in refusal("golden", "verify", run, "--engine", "trt")
    assert "-1.0 is not in the range x>=0" in refusal("golden", "verify", run, "--atol", "-1")
    assert "up to position 300, and there are 40" in refusal("golden", "verify", run, "--inject")
    assert "no file" in refusal("golden", "import-originals", run, "--golden", tmp_path / "x.pt")


@pytest.fixture(scope="module")
def cifar(cache_dir: Path) -> tuple[Path, Path]:
    """(real test images, real weights), unpacked once."""
    import tarfile

    shared = Path(os.environ.get("TESTBED_SHARED") or Path(__file__).parents[4].parent / "shared") / "data"
    if not (shared / "vit_cifar_d6.pth").is_file():
        pytest.skip(f"{shared} is not there; TESTBED_SHARED names the folder that holds data/")
    folder = cache_dir / "cifar10-jpeg-for-goldens"
    if not folder.is_dir():
        with tarfile.open(shared / "cifar10-jpeg.tar.gz") as tar:
            tar.extractall(folder, [m for m in tar if m.name.startswith("cifar10-jpeg/test/")], filter="data")
    return folder / "cifar10-jpeg/test", shared / "vit_cifar_d6.pth"


@pytest.mark.slow
def test_real_weights_and_images_give_the_known_accuracy(cifar: tuple[Path, Path], tmp_path: Path) -> None:
    images, weights = cifar
    run = tmp_path / "run"
    answer("import", weights, "--run", run, "--data", f"imagefolder:{images}", "--preprocess", "cifar10")
    golden = answer("golden", run)
    assert golden["images"] == 10_000
    assert golden["accuracy"] == pytest.approx(0.6372, abs=0.0005)
    tiers = answer("tiers", run, "--tiers", 4)
    assert tiers["correct"] == round(10_000 * golden["accuracy"])
    assert min(len(t["images"]) for t in tiers["tiers"]) > 1000
    assert answer("subset", run, "--per-tier", "64,64,128,256")["images"] == 512
    for engine in ("torch", "ort-cpu"):
        verify = ["golden", "verify", run, "--target", "attention", "--engine", engine, "--atol", 5e-6]
        found = answer(*verify)
        assert found["faulty_images"] == []
        assert [t["n"] for t in found["tiers"]] == [64, 64, 128, 256]
        assert answer(*verify, "--inject")["faulty_images"] == [150, 200, 201, 300]
