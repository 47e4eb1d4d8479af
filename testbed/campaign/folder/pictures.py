"""Pictures of the named images, kept in the run folder: a page shows them wherever it is made."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from testbed.campaign.folder.images import NamedImages
from testbed.campaign.results.reader import form_of
from testbed.core.folder.files import atomic_path
from testbed.data.dataset import Split

_LONGEST_SIDE = 512  # pixels: for looking at, not for running
_TABLE = form_of(
    "pictures",
    "rerun with `testbed campaign run SPEC --redo pictures`",
    pa.schema([("image_id", pa.string()), ("png", pa.binary())]),
    ("image_id", "png"),
)
LoadImage = Callable[[str], NDArray[np.uint8]]
"""Image id -> (H, W) or (H, W, 3)."""


def write_pictures(path: Path, test: Split, images: NamedImages) -> None:
    """One PNG per named image, as stored, in the order of the campaign; large ones are made smaller."""
    content = [_png(as_uint8(test.pixels(int(position)))) for position in images.positions]
    with atomic_path(path) as temporary:
        pq.write_table(pa.table({"image_id": list(images.ids), "png": pa.array(content, pa.binary())}), temporary)


def read_pictures(path: Path) -> LoadImage:
    """Raises StaleArtefact for a file that holds no pictures."""
    table = _TABLE.read(path)
    pngs = dict(zip(table.column("image_id").to_pylist(), table.column("png").to_pylist(), strict=True))
    return lambda image_id: np.asarray(Image.open(io.BytesIO(pngs[image_id])))


def as_uint8(pixels: NDArray) -> NDArray[np.uint8]:
    """Converts float32 pixels in [0, 1] to 0..255; a single channel loses its axis."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype == np.uint8:
        return pixels
    return np.asarray(np.clip(np.rint(pixels * 255), 0, 255), np.uint8)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    png = io.BytesIO()
    image.save(png, "PNG", optimize=True)
    return png.getvalue()
