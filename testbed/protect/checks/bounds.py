"""Thresholds of checks: what is seen without a fault, and what rounding allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from testbed.core.arrays import Float64s
from testbed.core.errors import TestbedError
from testbed.core.protected import PREFIX
from testbed.protect.checks.alarms import CheckGroup
from testbed.protect.checks.relation import Relation, Statistics
from testbed.protect.contract import Applied, CalibrationSet, ProtectedPlace
from testbed.protect.observe import Extremes, extremes, twin_values, values

FACTOR = 4.0
"""How far beyond the largest deviation that was seen without a fault a threshold is set."""
_SIGMAS = 6.0  # of the rounding model
_UNIT = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8, "int8": 2.0**-24}
_SUM_UNIT = 2.0**-24  # of the checks' own sums, float32 whatever the file's format
_BATCHES = (8, 1)


def set_bounds(
    proto: ModelProto, groups: Sequence[CheckGroup], calibration: CalibrationSet, factor: float = FACTOR
) -> tuple[ModelProto, list[ProtectedPlace]]:
    """Measure every check without a fault, and set its bounds to the larger of ``factor`` times what was seen and of what
    the rounding of a product allows.

    Raises TestbedError for a check whose value is not finite on real images.
    """
    seen = _noise(proto, groups, calibration)
    rules = _rules(proto, groups, calibration)
    bounded, places = ModelProto(), []
    bounded.CopyFrom(proto)
    stored = {tensor.name: tensor for tensor in bounded.graph.initializer}
    for group in groups:
        ends = [
            _bounds(relation, seen[group.value][:, at], rules, factor) for at, relation in enumerate(group.relations)
        ]
        for name, side in ((group.low, 0), (group.high, 1)):
            array = np.array([end[side] for end in ends], np.float32)
            stored[name].CopyFrom(numpy_helper.from_array(array, name))
        for at, (relation, (low, high)) in enumerate(zip(group.relations, ends, strict=True)):
            noise = float(np.abs(seen[group.value][:, at]).max())
            rule = rules.get(relation.name) if relation.bound is None else relation.bound[1]
            rule = rule if rule is None else rule + relation.allowance
            places.append(ProtectedPlace(relation.name, relation.kind, group.covers[at], low, high, noise, rule))
    onnx.checker.check_model(bounded)
    return bounded, places


def widen_copies(proto: ModelProto, copied: Applied, calibration: CalibrationSet) -> tuple[ModelProto, Applied]:
    """Measure copies again in the finished file and its twin, and allow what they differ by there.

    What a later pass takes of the network can keep an engine from fusing there, and so can the ports that faults come
    through: it then rounds otherwise than it did when the pass measured, and the copy otherwise than what it copies.
    """
    bounded = ModelProto()
    bounded.CopyFrom(proto)
    groups = places_by_group(proto, copied)
    names = [f"{group}.value" for group in groups]
    runs = [_measured(proto, names, calibration, run) for run in (values, twin_values)]
    noise = {name: np.concatenate([np.abs(seen[name]) for seen in runs]).max(axis=0) for name in names}
    widened: list[ProtectedPlace] = []
    for group, some in groups.items():
        halves = np.maximum([spot.high or 0.0 for spot in some], FACTOR * noise[f"{group}.value"])
        for tensor in bounded.graph.initializer:
            for end, sign in (("low", -1), ("high", 1)):
                if tensor.name == f"{group}.{end}":
                    tensor.CopyFrom(numpy_helper.from_array((sign * halves).astype(np.float32), tensor.name))
        for spot, half, seen in zip(some, halves, noise[f"{group}.value"], strict=True):
            widened.append(replace(spot, low=-float(half), high=float(half), noise=max(spot.noise or 0.0, float(seen))))
    return bounded, replace(copied, places=tuple(widened))


def places_by_group(proto: ModelProto, done: Applied) -> dict[str, Sequence[ProtectedPlace]]:
    """Checks of each group of a pass, in their order, by what the names of its tensors begin with."""
    made = {name for node in proto.graph.node for name in node.output}
    groups: dict[str, Sequence[ProtectedPlace]] = {}
    start = 0
    for tensor in proto.graph.initializer:
        group = tensor.name.removesuffix(".low")
        if tensor.name != group and group.startswith(f"{PREFIX}{done.name}.") and f"{group}.value" in made:
            groups[group] = done.places[start : start + tensor.dims[0]]
            start += tensor.dims[0]
    return groups


def _noise(proto: ModelProto, groups: Sequence[CheckGroup], calibration: CalibrationSet) -> dict[str, NDArray]:
    """Values of all checks (n, checks). Raises TestbedError for one that is not finite."""
    joined = _measured(proto, [group.value for group in groups], calibration)
    for group in groups:
        broken = np.flatnonzero(~np.isfinite(joined[group.value]).all(axis=0))
        if len(broken):
            raise TestbedError(
                f"the check {group.relations[broken[0]].name} is not finite on real images: leave its site out of --where"
            )
    return joined


def _measured(
    proto: ModelProto,
    names: Sequence[str],
    calibration: CalibrationSet,
    run: Callable[..., dict[str, NDArray]] = values,
) -> dict[str, NDArray]:
    """Small tensors on every engine and in batches of several sizes."""
    parts: dict[str, list[NDArray]] = {name: [] for name in names}
    for engine in calibration.engines:
        for batch in _BATCHES:
            images = calibration.images if batch > 1 else calibration.images[:32]
            for name, array in run(proto, names, images, engine, calibration.precision, batch).items():
                if name in parts:
                    parts[name].append(array.astype(np.float64))
    return {name: np.concatenate(some) for name, some in parts.items()}


def _bounds(relation: Relation, seen: Float64s, rules: Mapping[str, float], factor: float) -> tuple[float, float]:
    if relation.bound is not None:
        return relation.bound
    if relation.is_range:
        low, high = float(seen.min()), float(seen.max())
        return low - (high - low), high + (high - low)
    noise = max(float(np.abs(seen).max()) - relation.allowance, 0.0)
    half = relation.allowance + max(factor * noise, rules.get(relation.name, 0.0))
    return -half, half


def _rules(proto: ModelProto, groups: Sequence[CheckGroup], calibration: CalibrationSet) -> dict[str, float]:
    """Per product, softmax and residual, the bound of `rounding_bound` on the calibration images."""
    statistics = {r.name: r.statistics for group in groups for r in group.relations if r.statistics is not None}
    taken = [tensor for each in statistics.values() for tensor in each.taken]
    engine, precision = calibration.engines[0], calibration.precision
    seen = extremes(proto, taken, calibration.images, engine, precision) if taken else {}
    return {name: rounding_bound(each, seen, _UNIT[precision]) for name, each in statistics.items()}


def rounding_bound(statistics: Statistics, seen: Mapping[str, Extremes], unit: float) -> float:
    """How far rounding may put the sum of a product off its checksum: after V-ABFT (arXiv 2602.08043), from extremes and
    means alone.

    Each operand's variance is at most (max - mean) (mean - min) (Bhatia & Davis 2000). An element is a sum of ``inner``
    products of which each step rounds by at most ``unit`` of the partial sum, in a random walk; errors of the elements
    add up as one, in float32. The bound is six standard deviations. unit: the rounding unit of the arithmetic.
    """
    spreads = [_second_moment(seen[tensor]) for tensor in statistics.taken]
    size = float(np.prod(spreads)) * (statistics.weight_deviation or 1.0)
    walk = unit * size * statistics.inner * np.sqrt(statistics.elements / 2)
    total = _SUM_UNIT * size * np.sqrt(statistics.inner) * statistics.elements / np.sqrt(2)
    return float(_SIGMAS * np.hypot(walk, total))


def _second_moment(seen: Extremes) -> float:
    """The largest root mean square that extremes and mean allow, over images."""
    variance = (seen.high - seen.mean) * (seen.mean - seen.low)
    return float(np.sqrt(np.maximum(variance, 0) + seen.mean**2).max())
