"""Which layers matter: measures of a trained model, and whether the campaign bears them out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

# Each name loads its module when it is first used: the command line reads the names of the scores without torch.
_HOMES = {
    "AnalysisSet": "circuits.analysis_set",
    "acdc": "circuits.acdc",
    "components": "circuits.components",
    "eap": "circuits.eap",
    "exponential_fit": "fuzziness.fits",
    "layer_fuzziness": "fuzziness.layers",
    "separation_fit": "fuzziness.fits",
    "separation_fuzziness": "fuzziness.separation",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
