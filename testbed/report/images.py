"""The campaign's images as stored, from the data set its manifest names."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.core.errors import TestbedError
from testbed.data import load
from testbed.report.faultcard import LoadImage

log = logging.getLogger(__name__)


def stored_images(manifest: Mapping[str, Any]) -> LoadImage | None:
    """``image_id -> uint8 (H, W) or (H, W, 3)``; None, with a logged reason, where the data set is not at hand."""
    spec = manifest.get("spec") or {}
    data = spec.get("data") or {}
    if "name" not in data:
        return None
    options = {
        "root": data.get("root"),
        "preprocess": data.get("preprocess"),
        "classes": data.get("classes"),
        "seed": spec.get("seed", 0),
    }
    try:
        test = load(data["name"], **options).test
    except TestbedError as error:
        log.warning("report: no images are shown: %s", error)
        return None
    return lambda image_id: as_uint8(test.pixels(test.position(image_id)))


def as_uint8(pixels: NDArray) -> NDArray[np.uint8]:
    """float32 pixels in [0, 1] become 0..255; a single channel loses its axis."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype == np.uint8:
        return pixels
    return np.asarray(np.clip(np.rint(pixels * 255), 0, 255), np.uint8)
