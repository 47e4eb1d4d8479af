"""What is benchmarked: a Vision Transformer in a run folder, and the images it is shown."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import interpolate

from testbed.data import load
from testbed.testing import ReferenceModel, ViTConfig

LOGIT_SPREAD = 2.0  # over images, of a random model's logits: top-1 margins like those of a trained one
_IMAGES = "images.npz"


@dataclass(frozen=True)
class Subject:
    """``run``: its folder; ``images``: how many of its run's the model is shown; ``told``: where both come from, for
    people."""

    run: Path
    reference: ReferenceModel
    images: int
    told: str

    @property
    def model(self) -> nn.Module:
        return self.reference.module

    @property
    def config(self) -> ViTConfig:
        return self.reference.config


def subject(name: str, run: Path | None, images: int, seed: int, folder: Path) -> Subject:
    """The model of a run folder, or a preset with random weights on random images, written to ``folder``.

    ``name``: a preset, or the size of a 224-px one ("tiny"). Raises UsageError for an unknown name or a folder without
    a model.
    """
    if run is not None:
        return Subject(
            run,
            ReferenceModel.of_run(run),
            images,
            f"trained model {run.name}, a choice of the test images that it gets right",
        )
    return _random(name, images, seed, folder)


def preset_name(name: str) -> str:
    full = f"vit-{name}-16-224"
    return full if full in ReferenceModel.presets() else name


def _random(name: str, images: int, seed: int, folder: Path) -> Subject:
    """Cls token and positions start small, as in most ViTs, or they would drown the image. The head is centred on these
    images and scaled, or a random model would give all of them one class by a hair's breadth."""
    reference = replace(ReferenceModel.random(preset_name(name), seed, init="trunc"), name=name)
    config = reference.config
    folder.mkdir(parents=True, exist_ok=True)
    pixels, source = random_pixels(images, config, seed), f"npz:{folder / _IMAGES}"
    _write_images(folder, pixels, np.zeros(images, np.int64), config)
    dataset = load(source, preprocess="half", image=config.image)
    shown = torch.from_numpy(dataset.test.batch(list(range(images))))
    scale, classes = _centre_head(reference, shown)
    _write_images(folder, pixels, classes, config)
    made_from = {"preset": name, "seed": seed, "images": images}
    run = reference.write_run(folder / "model", source, preprocess="half", made_from=made_from)
    told = (
        f"random weights (seed {seed}), head centred and scaled by {scale:.2f} so that logits spread by {LOGIT_SPREAD}"
        f" over the images; {images} seeded noise images; a label is the fault-free top-1"
    )
    return Subject(run, reference, images, told)


def _centre_head(reference: ReferenceModel, shown: torch.Tensor) -> tuple[float, NDArray[np.int64]]:
    """The scale, and the (n,) classes that the model now gives the images."""
    model = reference.module
    with torch.inference_mode():
        logits = model(shown)
    deviation = float(logits.std(0, correction=0).mean())
    scale = LOGIT_SPREAD / deviation if deviation > 0 else 1.0
    with torch.no_grad():
        model.head.weight.mul_(scale)
        model.head.bias.sub_(logits.mean(0)).mul_(scale)
        return scale, model(shown).argmax(1).numpy()


def random_pixels(count: int, config: ViTConfig, seed: int) -> NDArray[np.uint8]:
    """(count, S, S) or (count, S, S, 3): noise on a coarse pattern on a shade, so that images differ by more than grain."""
    rng = np.random.default_rng(seed)
    channels, size = config.channels, config.image
    grain = rng.standard_normal((count, channels, size, size), dtype=np.float32)
    coarse = torch.from_numpy(rng.standard_normal((count, channels, 7, 7), dtype=np.float32))
    shade = rng.standard_normal((count, channels, 1, 1), dtype=np.float32)
    mixed = 128 + 48 * (0.5 * grain + interpolate(coarse, size=(size, size)).numpy() + shade)
    pixels = mixed.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return pixels[..., 0] if channels == 1 else pixels


def _write_images(folder: Path, pixels: NDArray[np.uint8], labels: NDArray[np.int64], config: ViTConfig) -> None:
    np.savez(folder / _IMAGES, images=pixels, labels=labels, classes=np.array([str(k) for k in range(config.classes)]))
