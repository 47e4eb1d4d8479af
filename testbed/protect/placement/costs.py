"""What a place costs, in per cent of the plain file: latency, measured in turns with the plain engine, or operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from testbed.bench.timing import Budget, Ratio, interleaved, ratio_to
from testbed.protect.build import protect
from testbed.protect.contract import CalibrationSet, ProtectionPass
from testbed.protect.observe import opened
from testbed.protect.placement.candidates import Candidate, narrowed


@dataclass(frozen=True)
class PlaceCost:
    """``percent`` of the plain file, with its 95 % interval where it was measured. runs: of the engine that was timed;
    shared_by: how many alike places were in it, among which its cost was divided by their operations."""

    percent: float
    low: float | None
    high: float | None
    runs: int | None
    shared_by: int


def operation_costs(candidates: Sequence[Candidate], plain_macs: int) -> list[PlaceCost]:
    """Operations that each place adds, over the MACs of the plain file."""
    return [PlaceCost(100 * c.operations / plain_macs, None, None, None, 1) for c in candidates]


def latency_costs(
    plain: ModelProto,
    passes: Sequence[ProtectionPass],
    candidates: Sequence[Candidate],
    calibration: CalibrationSet,
    batch: int,
    timing: Budget,
    notify: Callable[[str], None],
) -> list[PlaceCost]:
    """Latency that each place adds on the first engine. Alike places of all blocks are built into one file, which is timed
    in turns with the plain one. What seems to make it faster costs nothing."""
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.group, []).append(candidate)
    costs: dict[Candidate, PlaceCost] = {}
    for number, (name, alike) in enumerate(groups.items()):
        notify(f"latency {number + 1}/{len(groups)}: {name}, in {len(alike)} place(s)")
        runs, ratio = latency_ratio(plain, narrowed(passes, alike), calibration, batch, timing)
        total = sum(candidate.operations for candidate in alike)
        for candidate in alike:
            part = candidate.operations / total if total else 1 / len(alike)
            low, high = (None if end is None else 100 * (end - 1) * part for end in (ratio.low, ratio.high))
            costs[candidate] = PlaceCost(max(0.0, 100 * (ratio.value - 1) * part), low, high, runs, len(alike))
    return [costs[candidate] for candidate in candidates]


def latency_ratio(
    plain: ModelProto,
    passes: Sequence[ProtectionPass],
    calibration: CalibrationSet,
    batch: int,
    timing: Budget,
) -> tuple[int, Ratio]:
    """Runs of each, and median latency of the protected engine over the plain one's, side by side."""
    engine, precision = calibration.engines[0], calibration.precision
    protected = protect(plain, passes, calibration).proto
    repeats = -(-batch // len(calibration.images))
    feeds = {plain.graph.input[0].name: np.concatenate([calibration.images] * repeats)[:batch]}
    with opened(plain, engine, precision, batch) as before, opened(protected, engine, precision, batch) as after:
        times = interleaved([lambda: before.run(feeds), lambda: after.run(feeds)], timing)
    return len(times[0]), ratio_to(times[0], times[1])
