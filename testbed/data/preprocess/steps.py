"""Model input from stored pixels: resize, centre crop, scale, normalise."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image
from pydantic import JsonValue

from testbed.core.errors import UsageError
from testbed.core.words.nearest import unknown

PerChannel = tuple[float, ...]
PIXELS = "pixels"
"""Name of the preset that leaves pixels what they are, 0 to 255."""
Resize = Literal["shorter", "squash", "none"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Offset = Literal["round", "floor"]

RESIZES: tuple[str, ...] = get_args(Resize)
INTERPOLATIONS: tuple[str, ...] = get_args(Interpolation)
OFFSETS: tuple[str, ...] = get_args(Offset)
PER_8_BIT = 1 / 255
_OVERSHOOTS = ("bicubic", "lanczos")  # past black and white at sharp edges; 8 bits cannot, so floats shall not

_LONGEST_SIDE, _MOST_RESIZED = 1 << 20, 1 << 28  # pixels, before the centre is cut out: one image is held so


@dataclass(frozen=True)
class Preprocess:
    """Model input = (pixel * scale - mean) / std per channel; pixels are 0..255 (float images are held as 0..1).

    ``resize``: "shorter" brings the shorter side to ``resized_side``, the other in proportion (torchvision, timm);
    "squash" brings both there, whatever the proportions (Hugging Face's ViT); "none" only cuts. The centre is then cut
    out, ``size`` x ``size``. Pillow's filters, which antialias; what torchvision, timm and Hugging Face's Pillow backend
    do with image files. An image that fits is not resampled.

    ``crop``: the share of the resized side that is kept, as timm counts it: resized to ``floor(size / crop)``.
    ``margin`` says the same the other way round: resized to ``round(size * margin)``. ``size`` (pixels): of the model
    input; None where the model decides. ``offset``: how half a pixel is rounded where the centre is cut (torchvision and
    timm round to even, Hugging Face down).
    """

    name: str
    mean: PerChannel
    std: PerChannel
    margin: float = 1.0
    resize: Resize = "shorter"
    size: int | None = None
    crop: float | None = None
    interpolation: Interpolation = "bilinear"
    scale: float = PER_8_BIT
    offset: Offset = "round"

    def describe(self) -> dict[str, JsonValue]:
        """A record for manifests: name, mean, std, margin, interpolation; the rest where it is not the default."""
        antialiased = "" if self.interpolation == "nearest" else ", antialiased"
        always: dict[str, JsonValue] = {"margin": self.margin, "interpolation": self.interpolation + antialiased}
        return self.to_json() | always

    def to_json(self) -> dict[str, JsonValue]:
        """JSON that ``preprocess_from`` reads back: name, mean, std, and what is not the default."""
        needed = {"name", "mean", "std"}
        stated = {f.name: v for f in fields(self) if (v := getattr(self, f.name)) != f.default or f.name in needed}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in stated.items()}

    def one_line(self, size: int | None = None) -> str:
        """One line for people; ``size`` (pixels) of the model input, where it is known."""
        side = self.size or size
        if self.resize == "none":
            first = "not resized"
        else:
            what = "shorter side" if self.resize == "shorter" else "both sides"
            first = f"{what} to {self._describe_side(side)} ({self.interpolation})"
        scaled = "values / 255" if self.scale == PER_8_BIT else f"values * {self.scale:.6g}"
        if (self.mean, self.std) == ((0.0,), (1.0,)):
            normalised = "not normalised"
        else:
            normalised = f"mean {_listed(self.mean)}, std {_listed(self.std)}"
        return f"{self.name}: {first}, centre {side or 'of the model input'}, {scaled}, {normalised}"

    def check_channels(self, channels: int) -> None:
        if len(self.mean) not in (1, channels):
            raise UsageError(
                f"preprocess {self.name!r} is for {len(self.mean)} channels, the images have {channels};"
                f" choose another with --preprocess, for example 'half' or 'none'"
            )

    def check_size(self, size: int) -> None:
        """Raises UsageError where another size of the model input (pixels) was stated."""
        if self.size not in (None, size):
            raise UsageError(
                f"preprocess {self.name!r} makes images of {self.size} pixels, the model takes {size};"
                " state the size it was trained with, or leave size out"
            )

    def alike(self, other: Preprocess, size: int) -> bool:
        """Do both do the same, whatever their names, for a model input of ``size`` pixels?"""

        def done(preprocess: Preprocess) -> tuple[Any, ...]:
            per_channel = [values * 3 if len(values) == 1 else values for values in (preprocess.mean, preprocess.std)]
            resizing = (
                None if preprocess.resize == "none" else (preprocess.resized_side(size), preprocess.interpolation)
            )
            return preprocess.resize, resizing, per_channel, preprocess.scale, preprocess.size or size

        return done(self) == done(other)

    def resized_side(self, size: int) -> int:
        """Pixels that an image is resized to for a model input of ``size`` pixels."""
        return round(size * self.margin) if self.crop is None else math.floor(size / self.crop)

    def uncropped(self) -> Preprocess:
        """The same without a margin to be cut off: what an image that was already cut out is resized with."""
        return replace(self, margin=1.0, crop=None, size=None)

    def fitted(self, pixels: np.ndarray, size: int) -> np.ndarray:
        """(H, W) or (H, W, C), uint8 or float32 -> the same with H = W = ``size``.

        Raises UsageError for an image that is not resized and is smaller.
        """
        height, width = pixels.shape[:2]
        target = self._resized_to(height, width, size)
        if target != (height, width):
            if max(target) > _LONGEST_SIDE or target[0] * target[1] > _MOST_RESIZED:
                raise UsageError(
                    f"an image of {height} x {width} would be resized to {target[0]} x {target[1]}; choose another"
                    " preprocessing, or leave the image out"
                )
            pixels = _resized(pixels, target, self.interpolation)
        if min(pixels.shape[:2]) < size:
            raise UsageError(
                f"an image of {height} x {width} is smaller than the model input, {size} x {size}, and is not to be"
                ' resized (resize = "none"); choose "shorter" or "squash"'
            )
        top, left = (self._offset(extent - size) for extent in pixels.shape[:2])
        return pixels[top : top + size, left : left + size]

    def normalised(self, pixels: np.ndarray) -> np.ndarray:
        """(b, S, S) or (b, S, S, C) -> float32 (b, C, S, S). Bit-equal to torchvision's ToTensor and Normalize."""
        channels_last = pixels if pixels.ndim == 4 else pixels[..., None]
        x = np.array(channels_last.transpose(0, 3, 1, 2), np.float32, order="C")  # a copy: changed in place below
        if self.scale != PER_8_BIT:
            x *= np.float32(self.scale if pixels.dtype == np.uint8 else 255 * self.scale)
        elif pixels.dtype == np.uint8:
            x /= np.float32(255)
        x -= np.array(self.mean, np.float32)[:, None, None]
        x /= np.array(self.std, np.float32)[:, None, None]
        return x

    def _resized_to(self, height: int, width: int, size: int) -> tuple[int, int]:
        """(height, width) of the resized image; the longer side rounded down, as torchvision does."""
        side = self.resized_side(size)
        if self.resize == "squash":
            return side, side
        if self.resize == "none" or min(height, width) == side:
            return height, width
        return (side * height // width, side) if width <= height else (side, side * width // height)

    def _offset(self, spare: int) -> int:
        """Rounded as torchvision does, or as Hugging Face does."""
        return round(spare / 2) if self.offset == "round" else spare // 2

    def _describe_side(self, size: int | None) -> str:
        if size is not None:
            return str(self.resized_side(size))
        if self.crop is not None:
            return f"size / {self.crop:g}"
        return "size" if self.margin == 1 else f"size * {self.margin:.6g}"


PREPROCESS: dict[str, Preprocess] = {
    p.name: p
    for p in (
        Preprocess("none", (0.0,), (1.0,)),
        Preprocess(PIXELS, (0.0,), (1.0,), scale=1.0),
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
        raise UsageError(
            f"{unknown('preprocess', name, sorted(PREPROCESS))}; or state it, such as"
            " resize=shorter,crop=0.9,interpolation=bicubic,mean=0.5,std=0.5, or name a file: a"
            " preprocessor_config.json of Hugging Face, a config.json of timm, or a TOML or JSON file of these keys"
        )
    return PREPROCESS[name]


def _resized(pixels: np.ndarray, target: tuple[int, int], interpolation: str) -> np.ndarray:
    """Resizes to ``target`` (height, width)."""
    to_width_and_height, filter_ = target[::-1], Image.Resampling[interpolation.upper()]
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).resize(to_width_and_height, filter_))
    if pixels.ndim == 3:  # Pillow's float images have one channel
        return np.stack([_resized(plane, target, interpolation) for plane in np.moveaxis(pixels, -1, 0)], axis=-1)
    plane = Image.fromarray(np.ascontiguousarray(pixels, np.float32))
    resized = np.asarray(plane.resize(to_width_and_height, filter_))
    return resized.clip(0, 1) if interpolation in _OVERSHOOTS else resized


def _listed(values: PerChannel) -> str:
    return " ".join(f"{value:.6g}" for value in values)
