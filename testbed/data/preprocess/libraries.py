"""Preprocessing as timm's and Hugging Face's own configuration files state it.

Rules of timm: ``timm.data.create_transform`` and ``resolve_data_config``; of Hugging Face: the Pillow backend of its
image processors. What they can do and is not done here is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from testbed.core.errors import UsageError
from testbed.data.preprocess.steps import INTERPOLATIONS, PER_8_BIT, PerChannel, Preprocess

_IMAGENET: tuple[PerChannel, PerChannel] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF: tuple[PerChannel, PerChannel] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_CLIP: tuple[PerChannel, PerChannel] = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_PILLOW = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's numbers of its filters
_OF_CLASSES = ("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor")
_DONE = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"}
_OF_LABELS = {"do_reduce_labels"}


def timm_part(values: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The data configuration of timm in ``values``, if it is one or holds one."""
    for key in ("pretrained_cfg", "default_cfg"):
        if isinstance(values.get(key), Mapping):
            inner: Mapping[str, Any] = values[key]
            return inner
    return values if "input_size" in values or ("crop_pct" in values and not is_huggingface(values)) else None


def from_timm(values: Mapping[str, Any], where: str) -> Preprocess:
    """What ``timm.data.create_transform(**resolve_data_config(pretrained_cfg=values))`` does with an image file.

    What is left out has timm's default: bicubic, crop 0.875, ImageNet's mean and std, 224 pixels.
    """
    channels, height, width = values.get("input_size") or (3, 224, 224)
    if height != width:
        raise UsageError(f"{where}: input_size is {height} x {width}; only square images are supported")
    mode = values.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        raise UsageError(f"{where}: crop_mode {mode!r} (the whole image, with borders) is not supported; state another")
    interpolation: Any = values.get("interpolation") or "bicubic"
    if interpolation not in INTERPOLATIONS:
        raise UsageError(f"{where}: interpolation {interpolation!r} is not one of {', '.join(INTERPOLATIONS)}")
    mean, std = (tuple(map(float, values.get(key) or _IMAGENET[n])) for n, key in enumerate(("mean", "std")))
    if len(mean) not in (1, channels):
        raise UsageError(f"{where}: mean has {len(mean)} values for {channels} channels")
    return Preprocess(
        name="timm",
        mean=mean,
        std=std,
        resize="squash" if mode == "squash" else "shorter",
        size=int(height),
        crop=float(values.get("crop_pct") or 0.875),
        interpolation=interpolation,
    )


@dataclass(frozen=True)
class _Usual:
    """What a kind of Hugging Face image processor does where its file does not say."""

    resample: int
    mean_and_std: tuple[PerChannel, PerChannel]
    size: Mapping[str, int]
    crop_size: int | None = None

    @property
    def square(self) -> bool:
        """What a size that is one number means: both sides, or the shorter one."""
        return "height" in self.size


_SQUARE_224, _SHORTEST_224 = {"height": 224, "width": 224}, {"shortest_edge": 224}
_USUAL = {
    "vit": _Usual(2, _HALF, _SQUARE_224),
    "deit": _Usual(3, _HALF, {"height": 256, "width": 256}, 224),
    "beit": _Usual(3, _HALF, _SQUARE_224),
    "siglip": _Usual(3, _HALF, _SQUARE_224),
    "clip": _Usual(3, _CLIP, _SHORTEST_224, 224),
    "bit": _Usual(3, _CLIP, _SHORTEST_224, 224),
    "convnext": _Usual(3, _HALF, {"shortest_edge": 384}),
    "levit": _Usual(3, _IMAGENET, _SHORTEST_224, 224),
}
# model_type of config.json -> kind of image processor, where they differ (transformers.models.auto)
_SAME_AS = {
    **dict.fromkeys(("vit_mae", "vit_msn", "swin", "swinv2", "ijepa"), "vit"),
    **dict.fromkeys(("dinov2", "dinov2_with_registers"), "bit"),
    **dict.fromkeys(("data2vec-vision",), "beit"),
    **dict.fromkeys(("convnextv2",), "convnext"),
}

# kinds besides these that do what their file says, and nothing of their own: held against transformers
_PLAIN = {"blip", "chineseclip", "dinov3vit", "flava", "mobilenetv1", "mobilenetv2", "pvt", "segformer"}


def is_huggingface(values: Mapping[str, Any]) -> bool:
    return not {"image_processor_type", "feature_extractor_type", "image_mean", "do_resize"}.isdisjoint(values)


def from_huggingface(values: Mapping[str, Any], where: str) -> Preprocess:
    """What the image processor of a ``preprocessor_config.json`` does with an image file."""
    wanted = [key for key, value in values.items() if key.startswith("do_") and value]
    odd = [key for key in wanted if key not in _DONE | _OF_LABELS] + ["rescale_offset"] * bool(
        values.get("rescale_offset")
    )
    if odd:
        raise UsageError(f"{where}: {odd[0]} is not supported; state the preprocessing (--preprocess KEY=VALUE,...)")
    file = _PreprocessorConfig(values, where)
    file.check_kind()
    resize, side, size = file.sides()
    mean, std = file.mean_and_std()
    if side < size:
        raise UsageError(f"{where}: crops {size} pixels out of {side}, with a black border; that is not supported")
    return Preprocess(
        name="huggingface",
        mean=mean,
        std=std,
        margin=side / size,
        resize=resize,
        size=size,
        interpolation=file.interpolation(),
        scale=float(values.get("rescale_factor", PER_8_BIT)) if values.get("do_rescale", True) else 1.0,
        offset="floor",
    )


@dataclass(frozen=True)
class _PreprocessorConfig:
    """A preprocessor_config.json; what it leaves out is taken from its kind, if that is a known one."""

    values: Mapping[str, Any]
    where: str

    @property
    def kind(self) -> str:
        """ "ViTImageProcessorFast" -> "vit"."""
        named = self.values.get("image_processor_type") or self.values.get("feature_extractor_type") or ""
        lower = str(named).lower()
        for ending in ("pil", "fast", "imageprocessor", "featureextractor"):
            lower = lower.removesuffix(ending)
        return _SAME_AS.get(lower, lower)

    def check_kind(self) -> None:
        """Raises UsageError for an image processor that may have rules of its own, which its file does not tell."""
        named = str(self.values.get("image_processor_type") or self.values.get("feature_extractor_type") or "")
        if named.endswith(_OF_CLASSES) and self.kind not in _USUAL and self.kind not in _PLAIN:
            raise UsageError(
                f"{self.where}: what {named} does besides what is told there is not known; state the preprocessing"
                " (--preprocess KEY=VALUE,...)"
            )

    def usual(self, key: str) -> _Usual:
        """Raises UsageError that names ``key`` where the kind of processor is not known."""
        if self.kind not in _USUAL:
            of = f"of {self.kind!r} " if self.kind else ""
            raise UsageError(f"{self.where}: {key} is not told, and what is usual {of}is not known; write it there")
        return _USUAL[self.kind]

    def interpolation(self) -> Any:
        if not self.values.get("do_resize", True):
            return "bilinear"
        resample = self.values.get("resample")
        number = self.usual("resample").resample if resample is None else resample
        if number not in range(len(_PILLOW)):
            raise UsageError(f"{self.where}: resample {number!r} is none of Pillow's filters, 0 to {len(_PILLOW) - 1}")
        return _PILLOW[number]

    def mean_and_std(self) -> tuple[PerChannel, PerChannel]:
        if not self.values.get("do_normalize", True):
            return (0.0,), (1.0,)
        both = []
        for which, key in enumerate(("image_mean", "image_std")):
            value = self.values.get(key)
            value = self.usual(key).mean_and_std[which] if value is None else value
            both.append(tuple(map(float, value if isinstance(value, (list, tuple)) else [value])))
        return both[0], both[1]

    def sides(self) -> tuple[Any, int, int]:
        """How it is resized, to what side, and the side of the model input: pixels."""
        cut = self._cut()
        if not self.values.get("do_resize", True):
            if cut is None:
                raise UsageError(f"{self.where} neither resizes nor crops; state what is done (resize, size)")
            return "none", cut, cut
        resize, side = self._resized()
        if self.kind == "convnext" and resize == "shorter":
            return self._convnext(side)
        if cut is None and resize == "shorter":
            raise UsageError(f"{self.where}: images would not be square (shortest_edge without do_center_crop)")
        return resize, side, side if cut is None else cut

    def _convnext(self, edge: int) -> tuple[Any, int, int]:
        """ConvNeXt's own rule: below 384 pixels a margin is cut off, from there on the whole image is squashed."""
        if edge >= 384:
            return "squash", edge, edge
        return "shorter", int(edge / self.values.get("crop_pct", 224 / 256)), edge

    def _resized(self) -> tuple[Any, int]:
        size = self.values.get("size")
        size = self.usual("size").size if size is None else size
        if isinstance(size, (int, list, tuple)):
            numbers = [size] if isinstance(size, int) else list(size)
            if len(numbers) == 1:
                return ("squash" if self.usual("height and width of size").square else "shorter"), int(numbers[0])
            size = dict(zip(("height", "width"), numbers, strict=True))
        if set(size) == {"shortest_edge"}:
            edge = int(size["shortest_edge"])
            return "shorter", int(256 / 224 * edge) if self.kind == "levit" else edge  # LeViT's own rule
        return "squash", self._square(size, "size")

    def _cut(self) -> int | None:
        """The side of the crop; None where the whole is kept."""
        crops = self.values.get("do_center_crop")
        known = _USUAL.get(self.kind)
        if not (crops if crops is not None else known is not None and known.crop_size is not None):
            return None
        size = self.values.get("crop_size")
        size = self.usual("crop_size").crop_size if size is None else size
        if isinstance(size, int):
            return size
        if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
            return int(size["shortest_edge"])
        return self._square(size, "crop_size")

    def _square(self, size: Any, key: str) -> int:
        if not isinstance(size, Mapping) or not {"height", "width"} <= size.keys():
            raise UsageError(f"{self.where}: {key} {size!r} is not supported; it takes height and width, or one number")
        if size["height"] != size["width"]:
            raise UsageError(
                f"{self.where}: {key} is {size['height']} x {size['width']}; only square images are supported"
            )
        return int(size["height"])
