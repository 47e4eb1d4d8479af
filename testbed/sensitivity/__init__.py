"""Which layers matter: measures of a trained model, and whether the campaign bears them out."""

from __future__ import annotations

from testbed.sensitivity.circuits.acdc import acdc
from testbed.sensitivity.circuits.analysis_set import AnalysisSet
from testbed.sensitivity.circuits.components import components
from testbed.sensitivity.circuits.eap import eap
from testbed.sensitivity.fuzziness.fits import exponential_fit, separation_fit
from testbed.sensitivity.fuzziness.layers import layer_fuzziness
from testbed.sensitivity.fuzziness.separation import separation_fuzziness

__all__ = [
    "AnalysisSet",
    "acdc",
    "components",
    "eap",
    "exponential_fit",
    "layer_fuzziness",
    "separation_fit",
    "separation_fuzziness",
]
