"""Help for tests and tools: a model with fault ports, the NumPy reference of faults, and a check of what an engine
promises."""

from testbed.core.fault import masks_for
from testbed.core.formats import FP32, Format
from testbed.engines.runner import EngineInfo, EngineRequest, Runner, open_engine
from testbed.semantics import as_words, corrupt
from testbed.testing.contract import check_engine_contract
from testbed.testing.instrumented import InstrumentedModel

__all__ = [
    "FP32",
    "EngineInfo",
    "EngineRequest",
    "Format",
    "InstrumentedModel",
    "Runner",
    "as_words",
    "check_engine_contract",
    "corrupt",
    "masks_for",
    "open_engine",
]
