"""ACDC: the rise of the divergence (nats) when the component goes, visited from the output back (`circuits.acdc`)."""

from __future__ import annotations

from collections.abc import Sequence

from testbed.models.vit import ViT
from testbed.sensitivity.circuits.acdc import acdc
from testbed.sensitivity.circuits.components import Component
from testbed.sensitivity.rank.images import ScoredImages
from testbed.sensitivity.rank.settings import ScoreSettings


def acdc_scores(
    model: ViT, images: ScoredImages, parts: Sequence[Component], settings: ScoreSettings
) -> dict[str, float]:
    """Component -> rise of the divergence in nats. Raises UsageError as `acdc`."""
    circuit = acdc(
        model,
        images.analysis,
        parts,
        settings.tau,
        rule=settings.rule,
        ablation=settings.ablation,
        seed=settings.seed,
    )
    return {part.name: circuit.scores[part.name] for part in parts}
