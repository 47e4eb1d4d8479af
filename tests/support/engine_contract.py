"""What the contract of engines is asked with: images, and what an engine computes from them, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from testbed.core.fault import masks_for
from testbed.core.formats import FP32
from testbed.engines.backends import BACKENDS
from testbed.engines.runner import (
    Runner,
)

ROWS = 16
IMAGES = np.random.default_rng(0).standard_normal((ROWS, 1, 4, 4)).astype(np.float32)
FEEDS = {"image": IMAGES}
LOUD = masks_for("flip", FP32, 30)
ON_GPU = {"ort-cuda", "torch-cuda", "tensorrt", "tensorrt-rtx"}
ENGINES = [pytest.param(name, marks=pytest.mark.gpu) if name in ON_GPU else name for name in BACKENDS]
Open = Callable[..., Any]


def output(runner: Runner, images: NDArray[np.float32] = IMAGES) -> NDArray[np.float32]:
    """The logits of these images."""
    return runner.run({"image": images})["head"]


def same_bits(a: NDArray, b: NDArray) -> bool:
    """Whether type, shape and every bit are the same."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
