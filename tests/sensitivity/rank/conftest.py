"""Images that scores are measured on, of a data set that takes no time."""

from __future__ import annotations

import numpy as np
import pytest

from testbed.data.collection import Examples
from testbed.data.dataset import Dataset, Split
from testbed.data.preprocess.steps import preprocess_named
from testbed.sensitivity.rank.images import ScoredImages
from testbed.sensitivity.rank.settings import ScoreSettings


@pytest.fixture
def scored() -> ScoredImages:
    """Thirty 8 x 8 grey images of three classes, twelve of them to score with."""
    rng = np.random.default_rng(5)
    labels = np.arange(30) % 3
    pixels = (rng.integers(0, 120, (30, 8, 8)) + 40 * labels[:, None, None]).astype(np.uint8)
    examples, half = Examples.from_arrays("grey", pixels, labels), preprocess_named("half")
    none, some, rest = (Split(examples, rows, 8, half) for rows in (np.arange(0), np.arange(12), np.arange(12, 30)))
    dataset = Dataset("grey", ["a", "b", "c"], 1, 8, none, some, rest, half, seed=0)
    return ScoredImages(dataset, ScoreSettings(images=12, chunks=3))
