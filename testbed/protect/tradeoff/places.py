"""Places that passes could take in the plain file, with what each costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx

from testbed.bench.operations import operations_of
from testbed.bench.timing import Budget
from testbed.campaign.files import Files
from testbed.protect.contract import CalibrationSet
from testbed.protect.named import passes_named
from testbed.protect.paired.sides import PairedSide
from testbed.protect.placement.candidates import candidates_of
from testbed.protect.placement.costs import latency_costs, operation_costs
from testbed.protect.tradeoff.covered import WeightReach
from testbed.protect.tradeoff.curve import CostedPlace
from testbed.protect.tradeoff.record import CurveCost

_IMAGES = 16


def costed_places(
    plain: PairedSide,
    passes: Sequence[str],
    reach: WeightReach,
    cost: CurveCost,
    batch: int,
    timing: Budget,
    notify: Callable[[str], None] = lambda _: None,
) -> list[CostedPlace]:
    """All places of the passes in the file that a plain campaign ran, as `testbed protect --by measured` would weigh them.

    batch, timing: of latency, where that is the cost.
    """
    file, engine = onnx.load(str(plain.folder / Files("model").plain)), plain.spec.engine
    steps = passes_named(passes, {}, under_budget=True)
    calibration = CalibrationSet(_noise(file), (engine.backend,), engine.precision)
    counted = operations_of(file)
    candidates = candidates_of(file, steps, calibration, counted)
    if cost == "macs":
        costs = operation_costs(candidates, counted.total_macs)
    else:
        costs = latency_costs(file, steps, candidates, calibration, batch, timing, notify)
    return [
        CostedPlace(f"{candidate.step} {candidate.name}", reach.covered([candidate.covers]), spent.percent)
        for candidate, spent in zip(candidates, costs, strict=True)
    ]


def _noise(file: onnx.ModelProto) -> np.ndarray:
    """Images that bounds are measured on: bounds change neither what places cover nor what they cost."""
    dims = file.graph.input[0].type.tensor_type.shape.dim
    return np.random.default_rng(0).standard_normal((_IMAGES, *(dim.dim_value for dim in dims[1:])), np.float32)
