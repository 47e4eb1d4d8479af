"""From stored pixels to model input: resize, centre crop, scale to [0, 1], normalise."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from testbed.core.errors import UsageError

Floats = tuple[float, ...]


@dataclass(frozen=True)
class Preprocess:
    """Model input = (pixel - mean) / std per channel, pixels in [0, 1] (uint8 divided by 255).

    An image of another size has its shorter side resized to ``round(size * margin)`` (Pillow's bilinear filter, which
    antialiases; what torchvision does with image files) and its centre cut out. An image that fits is not resampled.
    """

    name: str
    mean: Floats
    std: Floats
    margin: float = 1.0

    def describe(self) -> dict[str, Any]:
        return asdict(self) | {"interpolation": "bilinear, antialiased"}

    def check_channels(self, channels: int) -> None:
        if len(self.mean) not in (1, channels):
            raise UsageError(
                f"preprocess {self.name!r} is for {len(self.mean)} channels, the images have {channels};"
                f" choose another with --preprocess, for example 'half' or 'none'"
            )

    def fitted(self, pixels: np.ndarray, size: int) -> np.ndarray:
        """(H, W) or (H, W, C), uint8 or float32 -> the same with H = W = ``size``."""
        shorter = round(size * self.margin)
        if min(pixels.shape[:2]) != shorter:
            pixels = _resized(pixels, shorter)
        top, left = (round((extent - size) / 2) for extent in pixels.shape[:2])  # rounded as torchvision does
        return pixels[top : top + size, left : left + size]

    def normalised(self, pixels: np.ndarray) -> np.ndarray:
        """(b, S, S) or (b, S, S, C) -> float32 (b, C, S, S). Bit-equal to torchvision's ToTensor and Normalize."""
        channels_last = pixels if pixels.ndim == 4 else pixels[..., None]
        x = np.array(channels_last.transpose(0, 3, 1, 2), np.float32, order="C")  # a copy: changed in place below
        if pixels.dtype == np.uint8:
            x /= np.float32(255)
        x -= np.array(self.mean, np.float32)[:, None, None]
        x /= np.array(self.std, np.float32)[:, None, None]
        return x


PREPROCESS: dict[str, Preprocess] = {
    p.name: p
    for p in (
        Preprocess("none", (0.0,), (1.0,)),
        Preprocess("half", (0.5,), (0.5,)),
        Preprocess("digits", (0.3053,), (0.3760,)),
        Preprocess("mnist", (0.1307,), (0.3081,)),
        Preprocess("fashion-mnist", (0.2860,), (0.3530,)),
        Preprocess("cifar10", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        Preprocess("cifar100", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
        Preprocess("tiny-imagenet", (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)),
        Preprocess("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        Preprocess("imagenet-crop", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), margin=256 / 224),
    )
}


def preprocess_named(name: str) -> Preprocess:
    """Raises UsageError naming the known ones."""
    if name not in PREPROCESS:
        raise UsageError(f"unknown preprocess {name!r}; known: {', '.join(sorted(PREPROCESS))}")
    return PREPROCESS[name]


def _resized(pixels: np.ndarray, shorter: int) -> np.ndarray:
    """Shorter side ``shorter``, the other in proportion (rounded down, as torchvision does)."""
    height, width = pixels.shape[:2]
    scale_to = (shorter, shorter * height // width) if width <= height else (shorter * width // height, shorter)
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).resize(scale_to, Image.Resampling.BILINEAR))
    if pixels.ndim == 3:  # Pillow's float images have one channel
        return np.stack([_resized(plane, shorter) for plane in np.moveaxis(pixels, -1, 0)], axis=-1)
    plane = Image.fromarray(np.ascontiguousarray(pixels, np.float32))
    return np.asarray(plane.resize(scale_to, Image.Resampling.BILINEAR))
