"""Training: seeded, deterministic, resumable, best weights by validation."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from testbed.core.errors import TestbedError, UsageError
from testbed.data import Dataset
from testbed.data.augment import augmentation
from testbed.models.config import ViTConfig
from testbed.models.vit import ViT
from testbed.train.batches import training_batches
from testbed.train.checkpoint import State, load, save
from testbed.train.evaluation import evaluate
from testbed.train.progress import AdvanceBar, progress_bar
from testbed.train.recipes import Recipe
from testbed.train.record import Callback, EpochRecord
from testbed.train.seeding import derived_seed, process_state_kept, seed_layers


@dataclass(frozen=True)
class Trained:
    """``model`` is in evaluation mode on the CPU, with the weights of ``best_epoch`` (0: as initialised)."""

    model: ViT
    curves: list[EpochRecord]
    best_epoch: int


def train(
    config: ViTConfig,
    dataset: Dataset,
    recipe: Recipe,
    *,
    seed: int,
    threads: int = 1,
    device: str | torch.device = "cpu",
    checkpoint: Path | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    initial: ViT | None = None,
) -> Trained:
    """Trains a new ViT; 0 epochs give its seeded initial weights. ``initial``: weights to begin with instead (they are
    copied; fine-tuning), which a checkpoint does not go with.

    The same arguments give the same weights, bit for bit, on one machine's CPU with the same ``threads``; nothing of
    the process is left changed. With ``checkpoint`` the state is written there after every epoch, and a training that
    was interrupted goes on from it to the very result it would have had.

    Raises UsageError where model, data and recipe do not fit each other or the checkpoint is of another training,
    StaleArtefact for a damaged checkpoint, TestbedError when the loss is no longer finite.
    """
    target = compute_device(device)
    check_fit(config, dataset, recipe)
    with process_state_kept(target, threads):
        seed_layers(target, derived_seed(seed, "weights"))
        model = ViT(config)
        if initial is not None:
            model.load_state_dict(initial.state_dict())
        run = _Run(model.to(target), dataset, recipe, seed)
        identity = _identity(config, dataset, recipe, seed) if checkpoint else {}
        if checkpoint and checkpoint.exists():
            run.restore(load(checkpoint, identity))
        images = len(dataset.train)
        with progress_bar("training", recipe.epochs * images, run.epoch * images, progress) as advance:
            while run.epoch < recipe.epochs:
                record = run.one_epoch(advance)
                for callback in callbacks:
                    callback(record.epoch, run.model, record)
                if checkpoint:
                    save(checkpoint, run.state(), identity)
        return run.trained()


class _Run:
    """A training in progress."""

    def __init__(self, model: ViT, dataset: Dataset, recipe: Recipe, seed: int) -> None:
        self.model, self.dataset, self.recipe, self.seed = model, dataset, recipe, seed
        self.device = next(model.parameters()).device
        self.optimiser = _optimiser(model, recipe)
        self.epoch, self.best_epoch = 0, 0
        self.best: dict[str, Tensor] = {}
        self.curves: list[EpochRecord] = []

    def one_epoch(self, advance: AdvanceBar) -> EpochRecord:
        """Trains for an epoch, measures it, and leaves the model in evaluation mode."""
        epoch, started = self.epoch + 1, time.perf_counter()
        learning_rate = self.recipe.rate(epoch)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        seed_layers(self.device, derived_seed(self.seed, "dropout", epoch))
        loss, accuracy = self._fit(epoch, advance)
        self.model.eval()
        score = evaluate(self.model, self.dataset.validation)
        self._check_finite("loss", loss)
        if len(self.dataset.validation):
            self._check_finite("validation loss", score.loss)
        largest = torch.stack([weight.detach().abs().max() for weight in self.model.parameters()]).max()
        self._check_finite("largest weight", largest.item())
        record = EpochRecord(
            epoch, loss, accuracy, score.loss, score.accuracy, learning_rate, time.perf_counter() - started
        )
        self._keep(record)
        return record

    def _check_finite(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise TestbedError(
                f"training diverged: the {name} of epoch {self.epoch + 1} is {value}; lower learning_rate"
                f" (it is {self.recipe.learning_rate:g}) or set clip_norm, for example to 1"
            )

    def _fit(self, epoch: int, advance: AdvanceBar) -> tuple[float, float]:
        """Mean loss and accuracy over the epoch's images."""
        recipe, split = self.recipe, self.dataset.train
        autocast = torch.autocast(self.device.type, torch.bfloat16, recipe.amp and self.device.type == "cuda")
        # On the device, so that a GPU is not made to wait for every batch.
        total_loss, correct = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        text = f"epoch {epoch} of {recipe.epochs}"
        if self.curves:
            text += f", validation {100 * self.curves[-1].validation_accuracy:.1f} %"
        self.model.train()
        for images, labels in training_batches(split, recipe, self.seed, epoch):
            images, labels = images.to(self.device), labels.to(self.device)
            with autocast:
                outputs = self.model(images)
            loss = nn.functional.cross_entropy(outputs.float(), labels, label_smoothing=recipe.label_smoothing)
            self.optimiser.zero_grad()
            loss.backward()
            if recipe.clip_norm:
                nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
            self.optimiser.step()
            total_loss += loss.detach() * len(labels)
            correct += (outputs.argmax(1) == labels).sum()
            advance(len(labels), text)
        return total_loss.item() / len(split), correct.item() / len(split)

    def _keep(self, record: EpochRecord) -> None:
        """Copies the weights if they are the ones to select: never a reference, which later epochs would change."""
        self.epoch = record.epoch
        best = self.curves[self.best_epoch - 1] if self.best_epoch else None
        self.curves.append(record)
        if self.recipe.select == "last" or best is None or _rank(record) > _rank(best):
            self.best_epoch, self.best = record.epoch, _copied(self.model)

    def state(self) -> State:
        return State(
            _copied(self.model), self.optimiser.state_dict(), self.epoch, self.best_epoch, self.best, self.curves
        )

    def restore(self, state: State) -> None:
        self.model.load_state_dict(state.model)
        self.optimiser.load_state_dict(state.optimiser)
        self.epoch, self.best_epoch = state.epoch, state.best_epoch
        self.best, self.curves = state.best, state.curves

    def trained(self) -> Trained:
        if self.best:
            self.model.load_state_dict(self.best)
        return Trained(self.model.cpu().eval(), self.curves, self.best_epoch)


def _rank(record: EpochRecord) -> tuple[float, float]:
    return record.validation_accuracy, -record.validation_loss


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def _optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The published recipes decay every parameter, biases and norms included; so does this."""
    rates: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if recipe.optimiser == "adam":
        return torch.optim.Adam(model.parameters(), **rates)
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(model.parameters(), **rates)
    return torch.optim.SGD(model.parameters(), momentum=0.9, **rates)


def compute_device(device: str | torch.device) -> torch.device:
    """Raises UsageError where there is no such device."""
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"unknown device {device!r}; use cpu, cuda or cuda:N") from error
    if target.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda: PyTorch sees no CUDA GPU here; use --device cpu")
    return target


def check_fit(config: ViTConfig, dataset: Dataset, recipe: Recipe) -> None:
    """Raises UsageError where they cannot be trained together."""
    data = {"image": dataset.image, "channels": dataset.channels, "classes": len(dataset.classes)}
    for name, value in data.items():
        if getattr(config, name) != value:
            raise UsageError(
                f"the model's {name} is {getattr(config, name)}, data set {dataset.name!r} has {value}:"
                f" choose a model for {value}"
            )
    if recipe.epochs and not len(dataset.train):
        raise UsageError(f"data set {dataset.name!r} has no training images; only 0 epochs are possible")
    if recipe.epochs and recipe.select == "best" and not len(dataset.validation):
        raise UsageError(f"data set {dataset.name!r} has no validation images to select by; set select=last")
    if recipe.augmentation != "none":
        augmentation(recipe.augmentation, dataset.image)  # an unknown name is told now, not after the set-up


def _identity(config: ViTConfig, dataset: Dataset, recipe: Recipe, seed: int) -> dict[str, JsonValue]:
    """What a checkpoint must agree on to be continued."""
    content: dict[str, JsonValue] = {"train": dataset.train.sha256(), "validation": dataset.validation.sha256()}
    return {
        "seed": seed,
        "recipe": recipe.to_json(),
        "model": config.to_json(),
        "dataset": dataset.describe().to_json() | {"content": content},
    }
