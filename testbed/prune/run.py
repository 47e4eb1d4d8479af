"""Pruning of the model in a run folder, into the run folder of a smaller model, with what was cut and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue

from testbed.bench.counts import mac_count, parameter_count
from testbed.core.errors import UsageError
from testbed.data import Split
from testbed.models.runs import open_model_run, write_model_run
from testbed.models.vit import ViT
from testbed.prune.physical import masked, prune
from testbed.sensitivity.circuits.acdc import acdc
from testbed.sensitivity.circuits.analysis_set import AnalysisSet
from testbed.sensitivity.circuits.components import Component, KeptComponents, components
from testbed.sensitivity.circuits.eap import check_parts
from testbed.sensitivity.rank.catalogue import PRUNE_METHODS, PruneMethod, check_method
from testbed.sensitivity.rank.images import ScoredImages, scored_on
from testbed.sensitivity.rank.methods.table import SCORERS
from testbed.sensitivity.rank.settings import ScoreSettings
from testbed.train import Recipe, train

STAGE = "prune"
_CHECKED_IMAGES = 64
_EQUAL_TO = 1e-5  # of logits of ordinary size


@dataclass(frozen=True)
class PruneRequest:
    """One pruning. ``amount``: tau (nats) for acdc, the share of components to keep for the others."""

    method: PruneMethod
    amount: float
    kinds: tuple[str, ...] = ("head", "chunk")
    settings: ScoreSettings = field(default_factory=ScoreSettings)
    finetune: Recipe | None = None

    @property
    def name(self) -> str:
        """ "acdc-tau0.05", "eap-keep0.8"."""
        return f"{self.method}-{'tau' if self.method == 'acdc' else 'keep'}{self.amount:g}"

    def check(self) -> None:
        """Raises UsageError for an unknown method or an amount out of its range."""
        check_method(self.method, PRUNE_METHODS)
        if self.method == "acdc" and not self.amount > 0:
            raise UsageError(
                f"tau is how much the divergence may rise, in nats; it must be above 0, not {self.amount:g}"
            )
        if self.method != "acdc" and not 0 < self.amount <= 1:
            raise UsageError(f"keep is the share of components that stays: above 0 and at most 1, not {self.amount:g}")

    def made_from(self, model_hash: str) -> dict[str, JsonValue]:
        settings = replace(self.settings, tau=self.amount) if self.method == "acdc" else self.settings
        return {
            "model": model_hash,
            "method": self.method,
            "amount": self.amount,
            "components": list(self.kinds),
            **settings.used_by(self.method),
            "finetune": self.finetune.to_json() if self.finetune else None,
        }


@dataclass(frozen=True)
class PrunedParts:
    """What was kept, per block: heads by their numbers in the original, neurons as runs "0-31,64-127"; and of how many."""

    heads: list[list[int]]
    neurons: list[str]
    of_heads: list[int]
    of_neurons: list[int]


@dataclass(frozen=True)
class Pruned:
    """A pruned model. accuracy: of test images, [0, 1], of the new model; before: of the old one."""

    run: str
    method: PruneMethod
    amount: float
    kept: PrunedParts
    parameters: int
    parameters_before: int
    macs: int
    macs_before: int
    accuracy: float
    accuracy_before: float
    accuracy_before_finetuning: float
    finetuned_epochs: int
    largest_difference_to_masked: float

    def to_json(self) -> dict[str, JsonValue]:
        return asdict(self)


def prune_runs(
    source: Path, orders: Sequence[tuple[PruneRequest, Path]], notify: Callable[[str], None] = lambda _: None
) -> list[Pruned]:
    """Writes one run folder per order. Raises UsageError for what cannot be pruned; nothing is written for it."""
    run = open_model_run(source)
    if run.protected:
        raise UsageError(
            f"{source} holds a protected model; prune the plain one it was made from, then protect the result"
        )
    for order, path in orders:
        order.check()
        if path.resolve() == source.resolve():
            raise UsageError(f"{path} holds the model that is to be pruned; name another folder with --to")
    if not orders:
        return []
    torch.set_num_threads(1)
    settings = orders[0][0].settings
    model, dataset = run.model, scored_on(run, settings)
    before = accuracy(model, dataset.test)
    scored = ScoredImages(dataset, settings)
    images = scored.analysis
    pruned = []
    for order, path in orders:
        notify(f"{order.name}: scoring components on {len(images)} images")
        kept = choose(model, scored, order)
        smaller = prune(model, kept)
        difference = _largest_difference(model, smaller, kept, images)
        cut = accuracy(smaller, dataset.test)
        if order.finetune:
            notify(f"{order.name}: fine-tuning {order.finetune.epochs} epochs")
            seed = order.settings.seed
            smaller = train(smaller.config, dataset, order.finetune, seed=seed, initial=smaller, progress=False).model
        record = Pruned(
            run=str(path),
            method=order.method,
            amount=order.amount,
            kept=_described(kept, model),
            parameters=parameter_count(smaller),
            parameters_before=parameter_count(model),
            macs=mac_count(smaller.config),
            macs_before=mac_count(model.config),
            accuracy=accuracy(smaller, dataset.test) if order.finetune else cut,
            accuracy_before=before,
            accuracy_before_finetuning=cut,
            finetuned_epochs=order.finetune.epochs if order.finetune else 0,
            largest_difference_to_masked=difference,
        )
        made_from = order.made_from(run.model_hash)
        facts = record.to_json() | {"from": str(source)}
        name = f"{run.folder.manifest['name']}-{order.name}"
        write_model_run(path, smaller, stage=STAGE, name=name, made_from=made_from, data=run.data, facts=facts)
        pruned.append(record)
    return pruned


def choose(model: ViT, images: ScoredImages, order: PruneRequest) -> KeptComponents:
    """What stays. Raises UsageError where nothing would."""
    settings, parts = order.settings, components(model.config, order.kinds, order.settings.chunks)
    if order.method == "acdc":
        circuit = acdc(
            model,
            images.analysis,
            parts,
            order.amount,
            rule=settings.rule,
            ablation=settings.ablation,
            seed=settings.seed,
        )
        kept = circuit.kept
    else:
        kept = KeptComponents.all_of(model.config).without(_least(model, images, parts, order))
    if kept.is_empty:
        raise UsageError(f"{order.name} would prune everything away; take a smaller tau, or keep more")
    return kept


def _least(model: ViT, images: ScoredImages, parts: Sequence[Component], order: PruneRequest) -> list[Component]:
    """The components of the lowest scores, as many as are not to be kept. Raises UsageError as the score does."""
    if order.method in ("eap", "eap-ig"):
        check_parts(parts)
    if not parts:
        raise UsageError("the model has no such components; choose others")
    scores = SCORERS[order.method](model, images, parts, order.settings)
    gone = len(parts) - max(1, round(order.amount * len(parts)))
    return sorted(parts, key=lambda part: scores[part.name])[:gone]


def _largest_difference(model: ViT, smaller: ViT, kept: KeptComponents, images: AnalysisSet) -> float:
    """Largest difference between the pruned model and the masked original, relative to the size of the logits where
    that is above 1.

    Raises UsageError when it is more than rounding: that model must not be written.
    """
    some = images.images[:_CHECKED_IMAGES]
    with torch.inference_mode():
        logits = smaller(some)
        with masked(model, kept):
            wanted = model(some)
    difference = float(((logits - wanted).abs() / wanted.abs().clamp(min=1)).max())
    if not difference <= _EQUAL_TO:
        raise UsageError(
            f"the pruned model is {difference:.3g} off the masked one; its weights are too large for float32"
        )
    return difference


def accuracy(model: ViT, split: Split) -> float:
    """Share of the split's images whose top-1 is their label."""
    right = 0
    with torch.inference_mode():
        for images, labels in split.batches(64):
            right += int((model(torch.from_numpy(images)).argmax(1).numpy() == labels).sum())
    return right / max(len(split), 1)


def _described(kept: KeptComponents, model: ViT) -> PrunedParts:
    return PrunedParts(
        [list(indices) for indices in kept.heads],
        [_runs(np.array(indices, np.int64)) for indices in kept.neurons],
        list(model.config.heads),
        list(model.config.mlp),
    )


def _runs(numbers: NDArray[np.int64]) -> str:
    if not len(numbers):
        return ""
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    return ",".join(f"{run[0]}-{run[-1]}" for run in np.split(numbers, breaks))
