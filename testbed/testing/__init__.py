"""Help for tests and tools, with promises: fault arithmetic, engines, fault ports, models in PyTorch, prepared campaigns.

faults     masks_for, corrupt, as_words, to_words; Format, FP32, format_named
engines    open_engine, EngineRequest, EngineInfo, Runner, PhasedRunner, WeightInjector, faulty_weight, check_engine_contract,
           available, precisions_of, cuda_devices
ports      InstrumentedModel, PortFeed
models     ReferenceModel, ViTConfig
campaigns  open_campaign, PreparedCampaign, PreparedFaults, outcome_judges
time       time_in_turns

Each name loads its module when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from testbed.core.fault import masks_for
    from testbed.core.formats import FP32, Format, format_named
    from testbed.engines.backends import available, precisions_of
    from testbed.engines.gpu import cuda_devices
    from testbed.engines.runner import (
        EngineInfo,
        EngineRequest,
        PhasedRunner,
        Runner,
        WeightInjector,
        faulty_weight,
        open_engine,
    )
    from testbed.instrument.ports.feed import PortFeed, to_words
    from testbed.models.config import ViTConfig
    from testbed.semantics import as_words, corrupt
    from testbed.testing.campaign import PreparedCampaign, PreparedFaults, open_campaign
    from testbed.testing.contract import check_engine_contract
    from testbed.testing.instrumented import InstrumentedModel
    from testbed.testing.judges import outcome_judges
    from testbed.testing.reference_model import ReferenceModel
    from testbed.testing.turns import time_in_turns

_HOMES = {
    "EngineInfo": "testbed.engines.runner",
    "EngineRequest": "testbed.engines.runner",
    "FP32": "testbed.core.formats",
    "Format": "testbed.core.formats",
    "InstrumentedModel": "testbed.testing.instrumented",
    "PhasedRunner": "testbed.engines.runner",
    "PortFeed": "testbed.instrument.ports.feed",
    "PreparedCampaign": "testbed.testing.campaign",
    "PreparedFaults": "testbed.testing.campaign",
    "ReferenceModel": "testbed.testing.reference_model",
    "Runner": "testbed.engines.runner",
    "ViTConfig": "testbed.models.config",
    "WeightInjector": "testbed.engines.runner",
    "as_words": "testbed.semantics",
    "available": "testbed.engines.backends",
    "check_engine_contract": "testbed.testing.contract",
    "corrupt": "testbed.semantics",
    "cuda_devices": "testbed.engines.gpu",
    "faulty_weight": "testbed.engines.runner",
    "format_named": "testbed.core.formats",
    "masks_for": "testbed.core.fault",
    "open_campaign": "testbed.testing.campaign",
    "open_engine": "testbed.engines.runner",
    "outcome_judges": "testbed.testing.judges",
    "precisions_of": "testbed.engines.backends",
    "time_in_turns": "testbed.testing.turns",
    "to_words": "testbed.instrument.ports.feed",
}

__all__ = [
    "FP32",
    "EngineInfo",
    "EngineRequest",
    "Format",
    "InstrumentedModel",
    "PhasedRunner",
    "PortFeed",
    "PreparedCampaign",
    "PreparedFaults",
    "ReferenceModel",
    "Runner",
    "ViTConfig",
    "WeightInjector",
    "as_words",
    "available",
    "check_engine_contract",
    "corrupt",
    "cuda_devices",
    "faulty_weight",
    "format_named",
    "masks_for",
    "open_campaign",
    "open_engine",
    "outcome_judges",
    "precisions_of",
    "time_in_turns",
    "to_words",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'testbed.testing' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
