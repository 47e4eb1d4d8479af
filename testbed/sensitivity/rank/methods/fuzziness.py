"""Fuzziness: by how much a block separates the classes, ln D before (of pixels, for the first) less ln D after."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from testbed.core.errors import UsageError
from testbed.models.vit import ViT
from testbed.sensitivity.circuits.components import Component
from testbed.sensitivity.fuzziness.layers import PIXELS, layer_fuzziness
from testbed.sensitivity.rank.images import ScoredImages
from testbed.sensitivity.rank.settings import ScoreSettings


def fuzziness_scores(
    model: ViT, images: ScoredImages, parts: Sequence[Component], _settings: ScoreSettings
) -> dict[str, float]:
    """Block -> drop of ln D, over the whole test split. Raises UsageError for classes that are not apart at all."""
    levels = layer_fuzziness(model, images.test)
    before = levels[PIXELS]
    drops = {}
    for part in parts:
        after = levels[part.name]
        known = 0 < after < np.inf and 0 < before < np.inf
        drops[part.name] = float(np.log(before) - np.log(after)) if known else float("nan")
        before = after
    if any(not np.isfinite(drop) for drop in drops.values()):
        raise UsageError("a layer's classes do not vary, or are not apart at all: its fuzziness is 0 or infinite")
    return drops
