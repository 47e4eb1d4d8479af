"""Which layers matter: measures of a trained model, and whether the campaign bears them out."""

from __future__ import annotations

from testbed.sensitivity.acdc import acdc
from testbed.sensitivity.analysis_set import AnalysisSet
from testbed.sensitivity.components import components
from testbed.sensitivity.eap import eap
from testbed.sensitivity.fits import exponential_fit, separation_fit
from testbed.sensitivity.fuzziness import fuzziness
from testbed.sensitivity.layers import layer_fuzziness

__all__ = [
    "AnalysisSet",
    "acdc",
    "components",
    "eap",
    "exponential_fit",
    "fuzziness",
    "layer_fuzziness",
    "separation_fit",
]
