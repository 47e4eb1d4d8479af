"""Scores of a run folder's model by each cheap method: component -> how much the model seems to need it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from testbed.core.errors import UsageError
from testbed.data import Dataset
from testbed.models.vit import ViT
from testbed.sensitivity.circuits.components import ComponentKind, components
from testbed.sensitivity.rank.catalogue import FACTS, ScoreMethod, check_method
from testbed.sensitivity.rank.images import ScoredImages
from testbed.sensitivity.rank.methods.table import SCORERS
from testbed.sensitivity.rank.settings import ScoreSettings


@dataclass(frozen=True)
class ComponentScore:
    """``component``'s name; the higher the ``score``, the more it matters."""

    component: str
    score: float


def scores(
    model: ViT, dataset: Dataset, by: ScoreMethod, kind: ComponentKind, settings: ScoreSettings
) -> list[ComponentScore]:
    """Scores by a method of the catalogue, of every "block", "head", "chunk" or "neuron", in forward order.

    What a score is and rests on is in the first lines of its module in ``methods``. Raises UsageError for what a method does
    not score.
    """
    check_method(by)
    FACTS[by].check_kind([kind])
    torch.set_num_threads(1)
    parts = components(model.config, [kind], settings.chunks)
    if not parts:
        raise UsageError("the model has no such components; choose others")
    values = SCORERS[by](model, ScoredImages(dataset, settings), parts, settings)
    return [ComponentScore(part.name, values[part.name]) for part in parts]
