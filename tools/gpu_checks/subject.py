"""The model and the images of the checks: a user's, or seeded random ones where none are given."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from testbed.core.folder.files import write_bytes
from testbed.data import Dataset, load
from testbed.export.precision import cast_model
from testbed.export.target import export_target
from testbed.models.config import ViTConfig, uniform
from testbed.models.importers import import_weights
from testbed.models.presets import preset
from testbed.models.runs import DataSource, write_model_run
from testbed.models.vit import ViT

from .common import Section, Setting

SMALL, MEDIUM, BASE = "digits", "d6", "vit-base-16-224"
CONFIGS: dict[str, Callable[[], ViTConfig]] = {
    SMALL: lambda: preset(SMALL),
    MEDIUM: lambda: uniform(6, 3, 768, image=32, patch=4, channels=3, width=192, classes=10, head_width=64),
    BASE: lambda: preset(BASE),
}
_RANDOM_IMAGES = 96


@dataclass(frozen=True)
class Subject:
    """``origin`` says where weights and images are from. source: of the images, for a campaign's spec."""

    name: str
    model: ViT
    source: DataSource
    origin: Section

    @cached_property
    def dataset(self) -> Dataset:
        s = self.source
        return load(s.name, root=s.root, preprocess=s.preprocess, image=self.model.config.image)

    def images(self, count: int) -> NDArray[np.float32]:
        """A seeded choice of the test images, (n, C, S, S), without any twice as long as there are enough."""
        test = self.dataset.test
        order = np.random.default_rng(0).permutation(len(test))
        return test.batch(np.resize(order, count))

    def run_folder(self, path: Path) -> Path:
        """A model's folder, as campaigns take it."""
        write_model_run(
            path, self.model, stage="import", name="gpu-check", made_from=self.origin, data=self.source, facts={}
        )
        return path


def subject(setting: Setting) -> Subject:
    """Raises what an import of the weights, or the data set, raises."""
    if setting.weights is None:
        name = SMALL if setting.quick else MEDIUM
        return random_subject(setting, name)
    imported = import_weights(setting.weights)
    if setting.data is None:
        images = random_images(imported.config, _RANDOM_IMAGES)
        source = _labelled(setting, imported.model, images)
    else:
        source = DataSource(setting.data, preprocess=setting.preprocess)
    origin = {"weights": setting.weights.name, "layout": imported.layout, "images": _named(setting.data)}
    return Subject(setting.weights.stem, imported.model, source, origin)


def _named(data: str | None) -> str:
    """Without the folders of this machine."""
    kind, _, path = (data or "random, seed 0").partition(":")
    return f"{kind}:{Path(path).name}" if path else kind


def random_subject(setting: Setting, name: str) -> Subject:
    """Weights as they are before training, and images that the model is right about, being labelled by it."""
    torch.manual_seed(0)
    model = ViT(CONFIGS[name]()).eval()
    source = _labelled(setting, model, random_images(model.config, _RANDOM_IMAGES))
    return Subject(name, model, source, {"model": name, "weights": "random, seed 0", "images": "random, seed 0"})


def exported(setting: Setting, name: str, model: ViT, target: str = "model", precision: str = "fp32") -> Path:
    """The ONNX file of these very weights, made by the first stage that asks for it."""
    path = setting.shared / f"{name}-{_digest(model)}.{target}.{precision}.onnx"
    if path.is_file():
        return path
    if precision == "fp32":
        export_target(model, target, path)
    else:  # what an export would do, without tracing the model once more
        full = onnx.load(exported(setting, name, model, target))
        write_bytes(path, cast_model(full, precision).SerializeToString(deterministic=True))
    return path


def _digest(model: ViT) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()[:12]


def random_images(config: ViTConfig, count: int) -> NDArray[np.uint8]:
    """(n, S, S) or (n, S, S, C): each with its own pattern of large squares under noise, or all would look alike."""
    rng = np.random.default_rng(0)
    coarse = -(-config.image // 4)
    shape = (count, coarse, coarse, config.channels)
    squares = np.kron(rng.integers(0, 192, shape), np.ones((1, 4, 4, 1), np.int64))[:, : config.image, : config.image]
    pixels = (squares + rng.integers(0, 64, squares.shape)).astype(np.uint8)
    return pixels[..., 0] if config.channels == 1 else pixels


def _labelled(setting: Setting, model: ViT, images: NDArray[np.uint8]) -> DataSource:
    """An .npz file with the model's own answers as labels. Its head's bias is set so that not all answers are one class."""
    path = setting.folder / "images.npz"
    classes = np.array([str(number) for number in range(model.config.classes)])
    arrays: dict[str, Any] = {"images": images, "classes": classes}
    np.savez(path, labels=np.zeros(len(images), np.int64), **arrays)
    source = DataSource(f"npz:{path}")
    pixels = load(source.name, image=model.config.image).test.batch(slice(0, len(images)))
    logits = _logits(model.to(setting.device), pixels, setting.device)
    shift = torch.round(logits.mean(0), decimals=2)  # the same in every stage, whatever the last bits
    model.to("cpu")
    with torch.no_grad():
        model.head.bias.sub_(shift)
    np.savez(path, labels=(logits - shift).argmax(1).numpy(), **arrays)
    return source


def _logits(model: ViT, pixels: NDArray[np.float32], device: str) -> torch.Tensor:
    with torch.inference_mode():
        parts = [model(torch.from_numpy(pixels[i : i + 32]).to(device)).cpu() for i in range(0, len(pixels), 32)]
    return torch.cat(parts)
