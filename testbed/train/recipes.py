"""How to train, as one frozen, validated record; the published recipes go by their names."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from pydantic import JsonValue

from testbed.core.errors import UsageError
from testbed.core.words.nearest import unknown

Optimiser = Literal["adam", "adamw", "sgd"]
Schedule = Literal["cosine", "constant"]
Select = Literal["best", "last"]


@dataclass(frozen=True)
class Recipe:
    """Everything about a training but the model, the data and the seed.

    ``schedule`` "cosine" takes one step per epoch, from ``learning_rate`` towards 0 at the end (Loshchilov & Hutter
    2017, no restarts); ``warmup_epochs`` before it rise linearly. ``augmentation`` is a name of
    ``testbed.data.augment``; ``input_noise`` the standard deviation of Gaussian noise added to the normalised training
    images. ``clip_norm`` bounds the gradient's 2-norm, 0 is no bound. ``amp`` is bfloat16 autocast, on CUDA only.
    ``select`` "best" keeps the epoch of the highest VALIDATION accuracy (the lower validation loss among equals),
    "last" the last epoch.
    """

    name: str
    epochs: int
    batch: int
    optimiser: Optimiser
    learning_rate: float
    weight_decay: float = 0.0
    schedule: Schedule = "cosine"
    warmup_epochs: int = 0
    label_smoothing: float = 0.0
    augmentation: str = "none"
    input_noise: float = 0.0
    clip_norm: float = 0.0
    amp: bool = False
    select: Select = "best"

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _typed(field.name, str(field.type), getattr(self, field.name)))
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"recipe: {name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        for name, (low, high, text) in _BOUNDS.items():
            if not low <= getattr(self, name) < high:
                raise UsageError(f"recipe: {name} must be {text}, not {getattr(self, name)}")

    def to_json(self) -> dict[str, JsonValue]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Recipe:
        """Raises UsageError for an unknown or missing key, or a value that cannot be."""
        _check_keys(values)
        missing = [f.name for f in fields(cls) if f.default is dataclasses.MISSING and f.name not in values]
        if missing:
            raise UsageError(f"recipe: {', '.join(missing)} missing; give each a value")
        return cls(**values)

    def with_(self, **changes: Any) -> Recipe:
        """Raises UsageError as ``from_json`` does."""
        return Recipe.from_json(self.to_json() | changes)

    def rate(self, epoch: int) -> float:
        """Learning rate of ``epoch``, the first being 1."""
        if epoch <= self.warmup_epochs:
            return self.learning_rate * epoch / (self.warmup_epochs + 1)
        if self.schedule == "constant":
            return self.learning_rate
        done = (epoch - 1 - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


_CHOICES: dict[str, tuple[str, ...]] = {
    "optimiser": get_args(Optimiser),
    "schedule": get_args(Schedule),
    "select": get_args(Select),
}
_BOUNDS: dict[str, tuple[float, float, str]] = {
    "epochs": (0, 100_001, "0 to 100,000"),
    "batch": (1, 65_537, "1 to 65,536: its images are held at once"),
    "learning_rate": (1e-12, 1e38, "positive and below 1e38"),
    "weight_decay": (0, 1e38, "0 or more, below 1e38"),
    "warmup_epochs": (0, 100_001, "0 to 100,000"),
    "label_smoothing": (0, 1, "in [0, 1)"),
    "input_noise": (0, 1e38, "0 or more, below 1e38"),
    "clip_norm": (0, 1e38, "0 (no clipping) or more, below 1e38"),
}


_FLOAT = 1e300  # larger whole numbers are no float


def _typed(name: str, kind: str, value: Any) -> Any:
    """``value`` as the field's type: whole floats pass as int, ints as float; nothing else is converted."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _FLOAT
    if kind == "int" and is_number and float(value).is_integer():
        return int(value)
    if kind == "float" and is_number:
        return float(value)
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind not in ("int", "float", "bool") and isinstance(value, str):
        return value
    wanted = {"int": "a whole number", "float": "a number", "bool": "true or false"}.get(kind, "a name")
    raise UsageError(f"recipe: {name} must be {wanted}, not {value!r}")


def _check_keys(values: Mapping[str, Any]) -> None:
    known = [f.name for f in fields(Recipe)]
    for key in values:
        if key not in known:
            raise UsageError(f"recipe: {unknown('key', key, known)}")


RECIPES: dict[str, Recipe] = {
    r.name: r
    for r in (
        # Ours: 95 % and more on the digits in under a minute of one core, with every confidence tier populated.
        Recipe(
            "digits",
            epochs=60,
            batch=64,
            optimiser="adamw",
            learning_rate=4e-3,
            weight_decay=0.05,
            warmup_epochs=2,
            label_smoothing=0.28,
            input_noise=1.1,
            clip_norm=1.0,
            select="last",
        ),
        # The separation-fuzziness study ("Characterizing Spike-Decay in ViTs").
        Recipe("fashion-mnist", epochs=150, batch=64, optimiser="adam", learning_rate=1e-3, schedule="constant"),
        # The architecture study; weight decay is AdamW's default in PyTorch, augmentation is the study's variable.
        Recipe(
            "cifar10-study",
            epochs=50,
            batch=128,
            optimiser="adamw",
            learning_rate=1e-3,
            weight_decay=0.01,
            augmentation="baseline",
        ),
        # CIFAR-10 at 224 px, for the attention subnetwork.
        Recipe(
            "vit-224",
            epochs=100,
            batch=100,
            optimiser="adam",
            learning_rate=1e-4,
            augmentation="vit-224",
            amp=True,
        ),
        # The source fixes the model and the data only; these are common choices for a small ViT trained from nothing.
        Recipe(
            "tiny-imagenet",
            epochs=100,
            batch=128,
            optimiser="adamw",
            learning_rate=5e-4,
            weight_decay=0.05,
            warmup_epochs=5,
            label_smoothing=0.1,
            augmentation="baseline",
            clip_norm=1.0,
            amp=True,
        ),
        # Ours: the digits, enlarged to 224 px, by a ViT-Tiny from nothing; 97 % after half an hour of one core.
        Recipe(
            "digits-224",
            epochs=12,
            batch=32,
            optimiser="adamw",
            learning_rate=6e-4,
            weight_decay=0.05,
            warmup_epochs=1,
            label_smoothing=0.1,
            clip_norm=1.0,
            select="last",
        ),
        # Ours: a few gentle epochs after weights were cut out.
        Recipe("finetune", epochs=5, batch=64, optimiser="adamw", learning_rate=1e-4, weight_decay=0.01, clip_norm=1.0),
    )
}


def recipe(name: str, **overrides: Any) -> Recipe:
    """The recipe called ``name``, with some keys changed. Raises UsageError for an unknown name, key or value."""
    if name not in RECIPES:
        raise UsageError(unknown("recipe", name, RECIPES))
    return RECIPES[name].with_(**overrides)


_OF_PRESET = {"cifar10": "cifar10-study", "vit": "vit-224"}


def recipe_of_preset(preset: str) -> str:
    """Name of the recipe that the preset's own study used."""
    return preset if preset in RECIPES else _OF_PRESET.get(preset.partition("-")[0], "cifar10-study")
