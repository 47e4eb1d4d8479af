"""Training augmentations by name: one draw per image, decided by (seed, epoch, image id) alone.

    none         nothing
    shift        crop(size, pad 1, edges repeated)                       small images such as the digits
    baseline     crop(size, pad 4) + horizontal flip
    strong       baseline + colour jitter (.2, .2, .2) + rotation by up to 15 degrees
    cutout       baseline + random erasing, p .5, scale .02-.33
    autoaugment  baseline + the CIFAR-10 policy (Cubuk et al. 2019)
    vit-224      crop(32, pad 4) + horizontal flip, resized to the model's size

``size`` is the model input's. Padding is black. Erasing comes after normalisation and writes 0, the mean colour.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from testbed.core.errors import UsageError
from testbed.core.words.nearest import unknown
from testbed.data.dataset import Split

Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Augmentation:
    """``stored`` acts on the cropped image (C, S, S), uint8 or float32 in [0, 1]; ``normalised`` on the model input."""

    crop: int
    stored: tuple[Transform, ...]
    normalised: tuple[Transform, ...] = ()


def augmentation(name: str, size: int) -> Augmentation:
    """The one called ``name`` for model inputs of ``size`` px. Raises UsageError for an unknown name."""
    from testbed.data.torchvision_import import transforms as t  # here: it takes seconds, and "none" does not need it

    def baseline(crop: int = size) -> tuple[Transform, ...]:
        return t.RandomCrop(crop, padding=4), t.RandomHorizontalFlip()

    known: dict[str, Callable[[], Augmentation]] = {
        "shift": lambda: Augmentation(size, (t.RandomCrop(size, padding=1, padding_mode="edge"),)),
        "baseline": lambda: Augmentation(size, baseline()),
        "strong": lambda: Augmentation(size, (*baseline(), t.ColorJitter(0.2, 0.2, 0.2), t.RandomRotation(15))),
        "cutout": lambda: Augmentation(size, baseline(), (t.RandomErasing(p=0.5, scale=(0.02, 0.33)),)),
        "autoaugment": lambda: Augmentation(size, (*baseline(), t.AutoAugment(t.AutoAugmentPolicy.CIFAR10))),
        "vit-224": lambda: Augmentation(32, baseline(32)),
    }
    if name not in known:
        raise UsageError(unknown("augmentation", name, ["none", *known]))
    return known[name]()


def augmented_batch(split: Split, positions: np.ndarray, name: str, *, seed: int, epoch: int) -> np.ndarray:
    """Model input, float32 (b, C, S, S), augmented. torch's global generator is left as it was.

    The same image gets the same draw whatever else is in the batch, so order and batch size do not matter.
    """
    if name == "none":
        return split.batch(positions)
    chosen = augmentation(name, split.image)
    cropped_size = replace(split, image=chosen.crop)
    whole = split.preprocess.uncropped()
    batch = []
    with torch.random.fork_rng(devices=[]):
        for position in positions:
            torch.random.default_generator.manual_seed(_draw_seed(seed, epoch, split.ids[position]))
            image = _transformed(cropped_size.fitted([position])[0], chosen.stored)
            model_input = split.preprocess.normalised(whole.fitted(image, split.image)[None])[0]
            batch.append(_all_of(chosen.normalised, torch.from_numpy(model_input)))
    return torch.stack(batch).numpy()


def _transformed(image: np.ndarray, transforms: Iterable[Transform]) -> np.ndarray:
    """(S, S) or (S, S, 3) in and out; the transforms see (C, S, S)."""
    channels_first = torch.from_numpy(image[None] if image.ndim == 2 else image.transpose(2, 0, 1))
    done = _all_of(transforms, channels_first).numpy()
    return done[0] if image.ndim == 2 else done.transpose(1, 2, 0)


def _all_of(transforms: Iterable[Transform], image: Tensor) -> Tensor:
    for transform in transforms:
        image = transform(image)
    return image


def _draw_seed(seed: int, epoch: int, image_id: str) -> int:
    digest = hashlib.sha256(f"{seed}/{epoch}/{image_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
