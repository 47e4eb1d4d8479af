"""Image files as pixels. Values are converted by the range of their type; what has no range of its own is refused.

8 bits, palettes, 1 bit, CMYK    as Pillow converts them to RGB, which is what torchvision does: 0..255
16 bits, one channel             value / 65535 (TIFF of 12 bits: / 4095), the same in red, green and blue
16 bits, RGB                     the upper 8 bits: Pillow keeps no more
float                            as it is if all values are in [0, 1], else refused
signed, 32-bit whole numbers     refused: what is black and what is white is not told
transparency                     left out, as torchvision does; told once
EXIF orientation                 left out, as torchvision and timm do; told once
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from testbed.core.errors import TestbedError
from testbed.data.warn_once import warn_once

log = logging.getLogger(__name__)

# what Pillow's decoders raise on a bad file
_FAULTS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _ORIENTATION = 258, 262, 339, 274  # TIFF's tags, the last one also EXIF's
_SIGNED = 2
_CONVERT = "write it with 8 or 16 bits, unsigned, or as floats in [0, 1]"
_SEVERAL = ("TIFF", "WEBP", "PNG")  # formats with pages or frames


def decoded(path: Path) -> np.ndarray:
    """(H, W, 3): uint8, or float32 in [0, 1] for images of 16 bits and of floats, by the rules above.

    Raises TestbedError, with the file's name, for one that is missing, damaged, or of a kind that is refused.
    """
    try:
        with _without_remarks(), Image.open(path) as image:
            return _pixels(image, path)
    except _FAULTS as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else "cannot be decoded"
        raise TestbedError(f"image {path} {why}: replace the file or take it out of the folder") from error


def is_image(path: Path) -> bool:
    """Does the file begin as an image of a kind that can be read? Nothing is decoded."""
    try:
        with _without_remarks(), Image.open(path):
            return True
    except _FAULTS:
        return False


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Silence Pillow's remarks on damaged metadata: what cannot be decoded is told in one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _pixels(image: Image.Image, path: Path) -> np.ndarray:
    tags: Any = getattr(image, "tag_v2", {})  # TIFF's
    bits = max(tags.get(_BITS, (8,)))
    if _SIGNED in tags.get(_SAMPLE_FORMAT, ()):
        raise TestbedError(f"image {path} holds signed numbers of {bits} bits, whose black is not told; {_CONVERT}")
    _tell_what_is_left_out(image, path)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        white = 2**bits - 1 if image.format == "TIFF" else 2**16 - 1
        return _grey(_whole_numbers(image, path, white, inverted=tags.get(_PHOTOMETRIC) == 0))
    if image.mode == "I":
        raise TestbedError(f"image {path} holds whole numbers of 32 bits, whose white is not told; {_CONVERT}")
    if image.mode == "F":
        return _grey(_floats(image, path))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def _whole_numbers(image: Image.Image, path: Path, white: int, *, inverted: bool) -> np.ndarray:
    values = np.asarray(image)
    if 255 < values.max() < 2**12 <= white:
        _warn_of(
            "16-bit",
            path,
            f"image {path} has 16 bits and no value above {values.max()}: read as 0..{white}, so it is nearly black;"
            " if its white is 4095 or less, write it anew with values up to 65535",
        )
    return (white - values if inverted else values).astype(np.float32) / np.float32(white)


def _floats(image: Image.Image, path: Path) -> np.ndarray:
    values = np.asarray(image, np.float32)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 1):  # NaN is refused too
        raise TestbedError(f"image {path} holds floats from {low:.4g} to {high:.4g}, not in [0, 1]; {_CONVERT}")
    return values


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.float32)[..., None], 3, axis=2)


def _tell_what_is_left_out(image: Image.Image, path: Path) -> None:
    has_exif = "exif" in image.info or image.format == "TIFF"
    if has_exif and image.getexif().get(_ORIENTATION, 1) != 1:
        _warn_of(
            "turned",
            path,
            f"image {path} is stored turned (EXIF orientation) and is read as stored, as torchvision and timm do; if the"
            " model was trained on upright images, write the files upright (PIL.ImageOps.exif_transpose)",
        )
    if image.format in _SEVERAL and (number := getattr(image, "n_frames", 1)) > 1:
        _warn_of(
            "several", path, f"image {path} holds {number} images, of which the first is read, as torchvision does"
        )
    if "transparency" in image.info or (image.mode in ("LA", "PA", "RGBA") and _alpha(image).min() < 255):
        _warn_of(
            "transparent",
            path,
            f"image {path} is partly transparent: the colours are taken as stored and the transparency is left out, as"
            " torchvision does; if the model was trained on another background, write the files with it",
        )


def _alpha(image: Image.Image) -> np.ndarray:
    return np.asarray(image.getchannel("A"))


def _warn_of(kind: str, path: Path, text: str) -> None:
    """Warn once for a data set and process."""
    warn_once(log, text, (kind, path.parent.parent))
