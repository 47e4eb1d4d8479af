"""What cannot be protected, or not so, is one clear line through the command, and nothing is written."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from testbed.core.errors import TestbedError, UsageError
from testbed.core.folder.runfolder import RunFolder
from testbed.data import Split, load
from testbed.export.calibration import TRAIN
from testbed.models.presets import preset
from testbed.models.runs import DataSource, write_model_run
from testbed.models.vit import ViT
from testbed.protect import destination
from testbed.protect.checked import JudgedFile, MeasuredOn, check_weights, make_checked
from testbed.protect.named import passes_named
from tests.support.campaigns import tiny_values
from tests.support.commands import invoke, last_error_of

FEW = ("--calibration-images", 8, "--images", 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model: nothing is measured where all is refused."""
    path = tmp_path_factory.mktemp("refusals") / "plain"
    config = preset("digits", **tiny_values()["model"]["overrides"])
    write_model_run(path, ViT(config), stage="train", name="plain", made_from={"seed": 0}, data=DataSource("digits"))
    return path


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--with", "clip"], "clip"),
        (["--with", "range", "--where", "block.9.*"], "no site matches 'block.9.*'"),
        (["--with", "range", "--where", "block.0.attn.kk"], "did you mean 'block.0.attn.k'?"),
        (["--with", "duplicate", "--where", "block.0.mpl"], "did you mean 'block.0.mlp'?"),
        (["--with", "range", "--margin", "0.9"], "it is 1 or more, not 0.9"),
        (["--with", "checksum", "--factor", "0"], "a threshold below what is seen without a fault"),
        (["--with", "range", "--precision", "bf16"], "does not offer 'bf16'"),
        (
            ["--with", "range", "--by", "eap-ig", "--budget", "0.00001%", "--cost", "macs"],
            "fits no place: the cheapest",
        ),
        (["--with", "range", "--precision", "fp3"], "fp3"),
        (["--with", "range", "--engine", "nowhere"], "nowhere"),
        (["--with", "range", "--data", "digits"], "leave --data out"),
    ],
)
def test_what_cannot_be_protected_is_one_line(folder: Path, tmp_path: Path, options: list[str], wanted: str) -> None:
    to = tmp_path / "protected"
    assert wanted in last_error_of(invoke("protect", folder, *options, "--to", to), 2)
    assert not to.exists()


def told(exit_code: int, *arguments: object) -> str:
    return last_error_of(invoke("protect", *arguments, *FEW), exit_code)


def test_folders_are_checked_first(folder: Path, tmp_path: Path) -> None:
    assert "another folder" in last_error_of(invoke("protect", folder, "--with", "range", "--to", folder), 2)
    before = sorted(folder.rglob("*"))
    assert "inside the model's own folder" in told(2, folder, "--with", "range", "--to", folder / "deep" / "inside")
    assert sorted(folder.rglob("*")) == before
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes").write_text("mine")
    assert "is not empty and holds no run; name a new folder with --to" in told(
        2, folder, "--with", "range", "--to", full
    )
    assert "is a file; name a new folder" in told(2, folder, "--with", "range", "--to", full / "notes")
    assert [path.name for path in full.iterdir()] == ["notes"]
    assert "no such file or folder" in told(2, tmp_path / "gone.onnx", "--with", "range", "--to", tmp_path / "x")
    assert "holds no run" in told(2, full, "--with", "range", "--to", tmp_path / "x")
    file = tmp_path / "model.onnx"
    file.write_bytes(b"")
    assert "--data" in last_error_of(invoke("protect", file, "--with", "range", "--to", tmp_path / "y"), 2)


def test_where_nothing_can_be_written_nothing_is_measured(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(dir: Path) -> Any:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(destination.tempfile, "TemporaryFile", refused)
    line = told(2, folder, "--with", "range", "--to", tmp_path / "a" / "b")
    assert f"nothing can be written into {tmp_path} (Read-only file system); name another place with --to" in line
    assert not (tmp_path / "a").exists()


def test_a_campaign_on_a_file_is_no_model(tmp_path: Path) -> None:
    campaign = RunFolder.claimed(tmp_path / "campaign", "campaign", "c", {"model": {"onnx": "theirs.onnx"}}, [])
    with campaign.locked():
        campaign.save()
    line = told(2, campaign.path, "--with", "range", "--to", tmp_path / "x")
    assert "is a campaign on a file and holds no model of its own; protect theirs.onnx" in line
    assert not (tmp_path / "x").exists()


def test_a_weight_that_is_nan_is_named(plain: ModelProto) -> None:
    spoilt = ModelProto()
    spoilt.CopyFrom(plain)
    weight = next(tensor for tensor in spoilt.graph.initializer if tensor.name == "block.1.mlp.fc1.weight")
    values = numpy_helper.to_array(weight).copy()
    values[3, 2] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    check_weights(plain, "vit.onnx")
    with pytest.raises(TestbedError, match=r"vit\.onnx: weight 'block\.1\.mlp\.fc1\.weight' holds NaN"):
        check_weights(spoilt, "vit.onnx")


@pytest.fixture
def judged(plain: ModelProto) -> JudgedFile:
    return JudgedFile(plain, "fp32", "vit.onnx", load("digits"), None)


def checked(file: JudgedFile, source: str = TRAIN) -> str:
    with pytest.raises(UsageError) as raised:
        make_checked(file, passes_named(["range"], {}), MeasuredOn(("ort-cpu",), 8, source, 8), lambda line: None)
    return str(raised.value)


def test_images_that_are_evaluated_are_not_measured_on(judged: JudgedFile, tmp_path: Path) -> None:
    data = judged.dataset
    test_only = replace(judged, dataset=replace(data, train=data.train.subset([]), validation=data.train.subset([])))
    line = checked(test_only)
    assert "data set 'digits' has test images only" in line
    assert "--calibration-data" in line
    pixels = np.stack([data.test.pixels(position) for position in range(len(data.test))])
    np.savez(tmp_path / "same.npz", images=pixels, labels=data.test.labels)
    assert "test images of 'digits', which campaigns evaluate" in checked(judged, f"npz:{tmp_path / 'same.npz'}")


def test_an_image_with_nan_is_named(judged: JudgedFile, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Split.batch

    def spoilt(split: Split, positions: Any) -> Any:
        images = real(split, positions).copy()
        images[-1, 0, 2, 3] = np.nan
        return images

    monkeypatch.setattr(Split, "batch", spoilt)
    assert "holds NaN or infinity: nothing can be measured on it; take it out" in checked(judged)
