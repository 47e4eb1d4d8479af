"""Files that leave the image size open, as Optimum's exporter does: said by the weights, or stated by the user."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from testbed.campaign.folder.claim import claimed
from testbed.campaign.prepare.onnx_file import OnnxSubject
from testbed.campaign.prepare.subject import dataset_of
from testbed.campaign.reuse.reuse import NO_REUSE, Reuse
from testbed.campaign.spec.campaign import parse_spec
from testbed.core.errors import UsageError
from testbed.golden.arrays import read_array
from testbed.golden.reference import LOGITS
from testbed.instrument.adopt.file import adopt
from testbed.instrument.shapes import input_shape
from tests.support.campaigns import tiny_values


class NoPositions(nn.Module):
    """Takes images of any size: no weight says of which."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.head = nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.patches(images).flatten(2).transpose(1, 2).mean(1))
        return logits


def exported(model: nn.Module, images: torch.Tensor, path: Path) -> Path:
    axes = {"image": {0: "batch", 1: "channels", 2: "height", 3: "width"}, "logits": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(),
            (images,),
            path,
            dynamo=False,
            dynamic_axes=axes,
            input_names=["image"],
            output_names=["logits"],
        )
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return exported(NoPositions(), torch.zeros(2, 3, 16, 16), tmp_path_factory.mktemp("open") / "open.onnx")


def test_what_nothing_says_is_asked_for(file: Path) -> None:
    with pytest.raises(
        UsageError, match=r"\[model\] image_size = 224, or --image-size 224 of `testbed instrument` and `export`"
    ):
        adopt(file)


@pytest.mark.parametrize("size", [16, 24])
def test_the_stated_size_is_the_files_and_changes_no_number(file: Path, size: int) -> None:
    adopted = adopt(file, image_size=size)
    assert input_shape(onnx.load_from_string(adopted.plain)) == (3, size, size)
    assert f"its open image size is {size} x {size}" in adopted.changes
    images = np.random.default_rng(0).standard_normal((3, 3, size, size)).astype(np.float32)
    wanted, logits = (ort.InferenceSession(of).run(None, {"image": images})[0] for of in (str(file), adopted.plain))
    np.testing.assert_array_equal(logits, wanted)


def test_another_size_than_the_files_is_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "fixed.onnx").write_bytes(adopt(file, image_size=16).plain)
    with pytest.raises(UsageError, match=r"fixed\.onnx takes images of 16 x 16, not 24 x 24"):
        adopt(tmp_path / "fixed.onnx", image_size=24)
    assert adopt(tmp_path / "fixed.onnx", image_size=16).changes == ()


class AnyPositions(nn.Module):
    """Takes images of any size; its weights ask for four patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 4, 4)
        self.positions = nn.Parameter(torch.randn(1, 4, 8))
        self.head = nn.Linear(8, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.positions.mean(1, keepdim=True)
        logits: torch.Tensor = self.head(torch.relu(tokens).mean(1))
        return logits


def test_a_golden_of_images_of_another_size_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a version that took another size from the weights: neither the array alone nor the whole stage."""
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    file = exported(AnyPositions(), torch.zeros(2, 1, 8, 8), tmp_path / "any.onnx")
    spec = parse_spec(
        {
            "name": "open",
            "seed": 0,
            "model": {"onnx": str(file)},
            "data": {"name": "digits", "images": 40},
            "faults": [{"target": "model", "where": "weight", "ops": ["flip"]}],
            "gates": {"allow_chance_accuracy": True},
        }
    )
    subject = OnnxSubject.of(spec, None)
    assert subject.dataset.image == 8
    larger = replace(subject, dataset=dataset_of(spec, None, 16))
    for of_size, reuse in product((subject, larger), (NO_REUSE, Reuse(tmp_path / "stages"))):
        folder = claimed(tmp_path / f"{of_size.dataset.image}-{reuse.cache is None}", spec)
        of_size.make_golden(folder, reuse=reuse)
        images = of_size.dataset.test.batch(slice(0, 40))
        wanted = ort.InferenceSession(str(file)).run(None, {"image": images})[0]
        np.testing.assert_allclose(read_array(folder / LOGITS), wanted, atol=1e-5)


def test_it_is_of_files_alone() -> None:
    values = tiny_values()
    values["model"]["image_size"] = 224
    with pytest.raises(UsageError, match=r"image_size is of an ONNX file; name the file"):
        parse_spec(values)
