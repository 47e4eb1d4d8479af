"""Images of another data set stand in for training images that a model's own has not, read as its own are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from testbed.core.errors import UsageError
from testbed.data import Dataset, load
from testbed.data.another import training_images, with_training_images


def folder(path: Path, classes: tuple[str, ...], seed: int, count: int = 3) -> str:
    """Class folders of random images, 8 x 8, whose brightness tells the class."""
    rng = np.random.default_rng(seed)
    for brightness, name in enumerate(classes):
        (path / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 60, (8, 8, 3)) + 60 * brightness
            Image.fromarray(pixels.astype(np.uint8)).save(path / name / f"{number}.png")
    return f"imagefolder:{path}"


@pytest.fixture
def own(tmp_path: Path) -> Dataset:
    return load(folder(tmp_path / "own" / "test", ("bird", "cat"), seed=0), preprocess="half")


def test_its_images_take_the_place_of_those_not_for_testing(own: Dataset, tmp_path: Path) -> None:
    name = folder(tmp_path / "more", ("bird", "cat"), seed=1, count=5)
    assert not len(own.train)
    found = with_training_images(own, name)
    assert (len(found.train), len(found.test), len(found.validation)) == (10, 6, 0)
    np.testing.assert_array_equal(found.train.batch(slice(None)), load(name, preprocess="half").test.batch(slice(None)))
    np.testing.assert_array_equal(training_images(own, name).rows, found.train.rows)
    assert found.train.labels.tolist() == [0] * 5 + [1] * 5


def test_labels_are_the_models_in_another_order_of_classes(tmp_path: Path) -> None:
    own = load(folder(tmp_path / "own", ("bird", "cat"), seed=0), classes=("cat", "bird"))
    found = with_training_images(own, folder(tmp_path / "more", ("bird", "cat"), seed=1))
    assert {name: found.train.labels[found.train.position(name)] for name in ("bird/0.png", "cat/0.png")} == {
        "bird/0.png": 1,
        "cat/0.png": 0,
    }


def test_other_classes_and_the_models_own_test_images_are_refused(own: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has other classes \(3: bird, cat, dog, \.\.\.\) than"):
        with_training_images(own, folder(tmp_path / "three", ("bird", "cat", "dog"), seed=1))
    with pytest.raises(UsageError, match="holds the model's own test images"):
        with_training_images(own, own.name)
    with pytest.raises(UsageError, match=r"have 3 channel\(s\) and those of 'digits' 1"):
        training_images(own, "digits")
