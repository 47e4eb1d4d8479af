"""The function of each score, by the names of the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from testbed.models.vit import ViT
from testbed.sensitivity.circuits.components import Component
from testbed.sensitivity.rank.catalogue import ScoreMethod
from testbed.sensitivity.rank.images import ScoredImages
from testbed.sensitivity.rank.methods.acdc import acdc_scores
from testbed.sensitivity.rank.methods.attention_distance import attention_distance_scores
from testbed.sensitivity.rank.methods.attnlrp import attnlrp_scores
from testbed.sensitivity.rank.methods.eap import eap_ig_scores, eap_scores
from testbed.sensitivity.rank.methods.fuzziness import fuzziness_scores
from testbed.sensitivity.rank.methods.gradient import gradient_scores
from testbed.sensitivity.rank.methods.identifiability import identifiability_scores
from testbed.sensitivity.rank.methods.magnitude import magnitude_scores
from testbed.sensitivity.rank.settings import ScoreSettings

Scorer = Callable[[ViT, ScoredImages, Sequence[Component], ScoreSettings], dict[str, float]]
"""(model, images, components, settings) -> component's name -> score; the higher, the more it matters."""

SCORERS: dict[ScoreMethod, Scorer] = {
    "acdc": acdc_scores,
    "eap": eap_scores,
    "eap-ig": eap_ig_scores,
    "fuzziness": fuzziness_scores,
    "identifiability": identifiability_scores,
    "attention-distance": attention_distance_scores,
    "gradient": gradient_scores,
    "magnitude": magnitude_scores,
    "attnlrp": attnlrp_scores,
}
