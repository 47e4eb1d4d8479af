"""A library's configuration beside a user's own ONNX file: not passed over in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from testbed.campaign.prepare.as_trained import check_like_library
from testbed.campaign.spec.campaign import DataSpec
from testbed.core.errors import UsageError
from testbed.data import Dataset, load

PROCESSOR = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}


@pytest.fixture
def photos(tmp_path: Path) -> str:
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "photos" / name / "0.png")
    return f"imagefolder:{tmp_path / 'photos'}"


def loaded(data: DataSpec) -> Dataset:
    assert data.name is not None
    return load(data.name, preprocess=data.preprocess, classes=data.classes)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (
            {"preprocessor_config.json": PROCESSOR},
            r"data\.preprocess is not stated: .* has none: .*config.json has hugg",
        ),
        ({"config.json": {"pretrained_cfg": {"input_size": [3, 8, 8]}}}, r"data\.preprocess is not stated"),
        (
            {"config.json": {"id2label": {"0": "dog", "1": "cat"}}},
            r"data\.classes is not stated: .* class 0 is 'cat', and .* has 'dog' there",
        ),
    ],
)
def test_what_the_files_beside_a_model_say_must_be_stated(
    photos: str, tmp_path: Path, files: dict[str, Any], told: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(UsageError, match=told):
        check_like_library(DataSpec(name=photos), loaded(DataSpec(name=photos)), tmp_path)
    stated = DataSpec(name=photos, preprocess="half", classes=("dog", "cat"))
    check_like_library(stated, loaded(stated), tmp_path)


def test_files_that_say_what_is_done_anyway_or_nothing(photos: str, tmp_path: Path) -> None:
    data = DataSpec(name=photos)
    check_like_library(data, loaded(data), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "cat", "1": "dog"}, "hidden_size": 192}))
    check_like_library(data, loaded(data), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}))
    check_like_library(data, loaded(data), tmp_path)
