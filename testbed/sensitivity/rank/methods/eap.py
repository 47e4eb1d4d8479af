"""EAP and EAP-IG: the size of the summed effect of the component's edges (`circuits.eap`); a block's is that of its parts'
signed sum."""

from __future__ import annotations

from collections.abc import Sequence

from testbed.models.vit import ViT
from testbed.sensitivity.circuits.components import Component, components
from testbed.sensitivity.circuits.eap import eap
from testbed.sensitivity.rank.images import ScoredImages
from testbed.sensitivity.rank.settings import ScoreSettings


def eap_scores(
    model: ViT, images: ScoredImages, parts: Sequence[Component], settings: ScoreSettings
) -> dict[str, float]:
    """Component -> size of its effect, at the clean images. Raises UsageError as `eap`."""
    return _sizes(model, images, parts, settings, steps=0)


def eap_ig_scores(
    model: ViT, images: ScoredImages, parts: Sequence[Component], settings: ScoreSettings
) -> dict[str, float]:
    """Component -> size of its effect, averaged over the path to corrupt images. Raises UsageError as `eap`."""
    return _sizes(model, images, parts, settings, steps=settings.steps)


def _sizes(
    model: ViT, images: ScoredImages, parts: Sequence[Component], settings: ScoreSettings, steps: int
) -> dict[str, float]:
    by_block = all(part.kind == "block" for part in parts)
    inner = components(model.config, ["head", "chunk"], 1) if by_block else parts
    nodes = eap(
        model,
        images.analysis,
        inner,
        loss=settings.loss,
        corrupt=settings.corrupt,
        seed=settings.seed,
        snr_db=settings.snr_db,
        steps=steps,
        edges=False,
    ).nodes
    if not by_block:
        return {part.name: abs(nodes[part.name]) for part in parts}
    return {part.name: abs(sum(nodes[unit.name] for unit in inner if unit.block == part.block)) for part in parts}
