"""How outputs become outcomes: the tolerances of a campaign, applied to its images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.analysis.outputs.outcome import Outcomes, classify
from testbed.campaign.folder.engine import CampaignEngine
from testbed.campaign.folder.images import NamedImages


@dataclass(frozen=True)
class Judge:
    """How outputs become outcomes. atol: (tiers,)."""

    atol: NDArray[np.float64]
    rtol: float
    rtol_grid: tuple[float, ...]
    detector: str

    def of_images(self, images: NamedImages, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n,) the absolute tolerance of each row's tier."""
        return self.atol[images.tiers[rows]]

    def per_image(self, images: NamedImages) -> NDArray[np.float64]:
        """(images,) the absolute tolerance of each named image's tier."""
        return self.atol[images.tiers]

    def outcomes(self, engine: CampaignEngine, outputs: NDArray[np.float32], image: NDArray[np.int64]) -> Outcomes:
        """Judges outputs, as the engine gives them. outputs: (n, ...) of ``image``: (n,) rows of the named images."""
        side, atol = engine.side, self.of_images(engine.images, image)
        values, alarms = engine.judged(outputs)
        return classify(
            values,
            side.take(image),
            atol,
            self.rtol,
            self.rtol_grid,
            has_classes=side.has_classes,
            detector=self.detector,
            alarms=alarms,
        )
