"""The model and the images of the checks: a user's, or seeded random ones where none are given."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from testbed.data import Dataset, load
from testbed.testing import ReferenceModel, ViTConfig

from .common import Section, Setting

SMALL, MEDIUM, BASE = "digits", "d6", "vit-base-16-224"
CHANGES: dict[str, dict[str, Any]] = {  # of the preset of that name, or of the digits'
    MEDIUM: {
        "image": 32, "patch": 4, "channels": 3, "width": 192, "classes": 10, "head_width": 64,
        "heads": [3] * 6, "mlp": [768] * 6,
    },
}  # fmt: skip
_RANDOM_IMAGES = 96


@dataclass(frozen=True)
class Subject:
    """``origin`` says where weights and images are from. data, preprocess: of the images, for a campaign's spec."""

    name: str
    reference: ReferenceModel
    data: str
    preprocess: str | None
    origin: Section

    @property
    def config(self) -> ViTConfig:
        return self.reference.config

    @cached_property
    def dataset(self) -> Dataset:
        return load(self.data, preprocess=self.preprocess, image=self.config.image)

    def images(self, count: int) -> NDArray[np.float32]:
        """A seeded choice of the test images, (n, C, S, S), without any twice as long as there are enough."""
        test = self.dataset.test
        order = np.random.default_rng(0).permutation(len(test))
        return test.batch(np.resize(order, count))

    def run_folder(self, path: Path) -> Path:
        """A model's folder, as campaigns take it."""
        return self.reference.write_run(path, self.data, preprocess=self.preprocess, made_from=self.origin)


def subject(setting: Setting) -> Subject:
    """Raises what an import of the weights, or the data set, raises."""
    if setting.weights is None:
        name = SMALL if setting.quick else MEDIUM
        return random_subject(setting, name)
    imported = ReferenceModel.of_weights(setting.weights)
    data, preprocess = setting.data, setting.preprocess
    if data is None:
        data = _labelled(setting, imported, random_images(imported.config, _RANDOM_IMAGES))
    origin = {"weights": setting.weights.name, "layout": imported.layout, "images": named_source(setting.data)}
    return Subject(setting.weights.stem, imported, data, preprocess, origin)


def named_source(data: str | None) -> str:
    """Without the folders of this machine."""
    kind, _, path = (data or "random, seed 0").partition(":")
    return f"{kind}:{Path(path).name}" if path else kind


def random_subject(setting: Setting, name: str) -> Subject:
    """Weights as they are before training, and images that the model is right about, being labelled by it."""
    reference = ReferenceModel.random(SMALL if name in CHANGES else name, **CHANGES.get(name, {}))
    data = _labelled(setting, reference, random_images(reference.config, _RANDOM_IMAGES))
    return Subject(
        name, reference, data, None, {"model": name, "weights": "random, seed 0", "images": "random, seed 0"}
    )


def exported(
    setting: Setting, name: str, reference: ReferenceModel, target: str = "model", precision: str = "fp32"
) -> Path:
    """The ONNX file of these very weights, made by the first stage that asks for it."""
    path = setting.shared / f"{name}-{_digest(reference)}.{target}.{precision}.onnx"
    if not path.is_file():
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(reference.onnx(target, precision))
        os.replace(part, path)
    return path


def _digest(reference: ReferenceModel) -> str:
    digest = hashlib.sha256()
    for name, tensor in reference.module.state_dict().items():
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


def _labelled(setting: Setting, reference: ReferenceModel, images: NDArray[np.uint8]) -> str:
    """An .npz file with the model's own answers as labels. Its head's bias is set so that not all answers are one class."""
    path, model = setting.folder / "images.npz", reference.module
    classes = np.array([str(number) for number in range(reference.config.classes)])
    arrays: dict[str, Any] = {"images": images, "classes": classes}
    np.savez(path, labels=np.zeros(len(images), np.int64), **arrays)
    pixels = load(f"npz:{path}", image=reference.config.image).test.batch(slice(0, len(images)))
    logits = _logits(model.to(setting.device), pixels, setting.device)
    shift = torch.round(logits.mean(0), decimals=2)  # the same in every stage, whatever the last bits
    model.to("cpu")
    with torch.no_grad():
        model.head.bias.sub_(shift)
    np.savez(path, labels=(logits - shift).argmax(1).numpy(), **arrays)
    return f"npz:{path}"


def _logits(model: nn.Module, pixels: NDArray[np.float32], device: str) -> torch.Tensor:
    with torch.inference_mode():
        parts = [model(torch.from_numpy(pixels[i : i + 32]).to(device)).cpu() for i in range(0, len(pixels), 32)]
    return torch.cat(parts)
