"""ACDC: a circuit found by removing, from the output backwards, whatever the output does not need.

Conmy et al., "Towards Automated Circuit Discovery for Mechanistic Interpretability", NeurIPS 2023, on components: visit them
in reverse topological order, ablate one, and measure KL(full || current), the mean over a fixed analysis set of the
divergence of the current circuit's class probabilities from the full model's. Remove it for good iff that raises the
divergence by less than tau ("incremental", as published), or iff the divergence stays below tau in all ("cumulative").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from testbed.core.errors import UsageError
from testbed.core.words.nearest import unknown
from testbed.models.vit import ViT
from testbed.sensitivity.circuits.ablation import Ablation, Replacements, logits_of
from testbed.sensitivity.circuits.analysis_set import AnalysisSet, Corruption
from testbed.sensitivity.circuits.components import Component, KeptComponents

PruningRule = Literal["incremental", "cumulative"]
RULES: tuple[PruningRule, ...] = ("incremental", "cumulative")


@dataclass(frozen=True)
class Step:
    """One component's visit. kl: of the circuit without it; increment: over the circuit before."""

    component: Component
    kl: float
    increment: float
    removed: bool


@dataclass(frozen=True)
class Circuit:
    """The components that are kept. steps: in the order of the visits; kl: of what is kept, in nats."""

    kept: KeptComponents
    steps: tuple[Step, ...]
    kl: float

    @property
    def scores(self) -> dict[str, float]:
        """Component -> how much the divergence rose when it was taken away."""
        return {step.component.name: step.increment for step in self.steps}

    @property
    def removed(self) -> list[Component]:
        return [step.component for step in self.steps if step.removed]


def acdc(
    model: ViT,
    images: AnalysisSet,
    parts: Sequence[Component],
    tau: float,
    *,
    rule: PruningRule = "incremental",
    ablation: Ablation = "zero",
    seed: int = 0,
    corrupt: Corruption = "other_class",
    snr_db: float = 0.0,
) -> Circuit:
    """Finds the circuit by ACDC. parts: in the order of the forward pass (as `components` gives them). tau: nats.
    corrupt, snr_db: the corrupt inputs of ablation ``resample``.

    Raises UsageError for a tau that is not above 0, an unknown rule or ablation, or no parts.
    """
    if not tau > 0:
        raise UsageError(f"tau is how much the divergence may rise, in nats; it must be above 0, not {tau}")
    if rule not in RULES:
        raise UsageError(unknown("rule", rule, RULES))
    if not parts:
        raise UsageError("the model has no such components; choose others")
    model.eval()
    replaced = Replacements.of(model, images, ablation, seed, corrupt=corrupt, snr_db=snr_db)
    full = logits_of(model, images)
    kept, current = KeptComponents.all_of(model.config), 0.0
    steps = []
    for component in backwards(parts):
        smaller = kept.without([component])
        kl = divergence(full, logits_of(model, images, smaller, replaced))
        increment = kl - current
        removed = increment < tau if rule == "incremental" else kl < tau
        steps.append(Step(component, kl, increment, removed))
        if removed:
            kept, current = smaller, kl
    return Circuit(kept, tuple(steps), current)


def backwards(parts: Sequence[Component]) -> list[Component]:
    """Reverse topological order: last block first, its MLP before its heads; within a branch, as listed."""
    rank = {"block": 0, "chunk": 1, "neuron": 1, "head": 2}
    return sorted(parts, key=lambda part: (-part.block, rank[part.kind]))


def divergence(full: Tensor, current: Tensor) -> float:
    """Mean over images of KL(full || current), in nats; logits (n, K)."""
    p, q = full.double().log_softmax(-1), current.double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())
