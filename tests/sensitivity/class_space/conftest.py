"""Images that come as a split, with masks of their bright halves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from testbed.data.collection import Examples
from testbed.data.dataset import Split
from testbed.data.preprocess.steps import preprocess_named


@pytest.fixture
def make_split() -> Callable[..., Split]:
    """8 x 8 grey images of class k, brighter on the left or the right half by their row's parity."""

    def make(images: int = 12, classes: int = 3, seed: int = 0, image: int = 8) -> Split:
        rng = np.random.default_rng(seed)
        pixels = rng.integers(0, 100, (images, image, image)).astype(np.uint8)
        labels = np.arange(images) % classes
        for row in range(images):
            half = slice(0, image // 2) if row % 2 else slice(image // 2, image)
            pixels[row, :, half] += np.uint8(50 + 30 * labels[row])
        return Split(Examples.from_arrays("halves", pixels, labels), np.arange(images), image, preprocess_named("half"))

    return make


@pytest.fixture
def mask_folder(tmp_path: Path) -> Path:
    """Masks of `make_split`'s images: on the brighter half."""
    for row in range(64):
        mask = np.zeros((8, 8), np.uint8)
        mask[:, slice(0, 4) if row % 2 else slice(4, 8)] = 200
        path = tmp_path / "masks" / "halves" / f"{row:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    return tmp_path / "masks"
