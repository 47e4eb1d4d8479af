"""Relations of a graph as alarms: per group of checks one matrix product, bounds, and one flag for each image."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from testbed.core.arrays import Float64s
from testbed.core.errors import TestbedError
from testbed.core.protected import DETECTED, FLAG, PREFIX
from testbed.protect.checks.relation import Relation, Statistics, matrix_of
from testbed.protect.checks.sums import Vectors
from testbed.protect.contract import CalibrationSet, ProtectedPlace
from testbed.protect.graph import GraphEditor
from testbed.protect.observe import Extremes, extremes, values
from testbed.protect.order import order_for_cache

FACTOR = 4.0
"""How far beyond the largest deviation that was seen without a fault a threshold is set."""
_SIGMAS = 6.0  # of the rounding model
_UNIT = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8, "int8": 2.0**-24}
_SUM_UNIT = 2.0**-24  # of the checks' own sums, float32 whatever the file's format
_LARGEST = float(np.finfo(np.float32).max)
_BLOCK = re.compile(r"block\.(\d+)\.")
_BATCHES = (8, 1)
_END = ("norm", "head")


@dataclass(frozen=True)
class CheckGroup:
    """The checks of one block: names of its value tensor (batch, checks) and of its bounds, and what they check."""

    name: str
    value: str
    low: str
    high: str
    relations: tuple[Relation, ...]


def add_alarms(graph: GraphEditor, step: str, relations: Sequence[Relation]) -> list[CheckGroup]:
    """Add the checks to a graph, with bounds that are yet to be set. step: the pass. Gives back the groups."""
    by_block: dict[str, list[Relation]] = {}
    for relation in relations:
        by_block.setdefault(block_of(_names(graph, relation)), []).append(relation)
    return [_group(graph, step, name, tuple(some)) for name, some in by_block.items()]


def _names(graph: GraphEditor, relation: Relation) -> list[str]:
    return [relation.name, *map(graph.named, relation.covers)]


def block_of(names: Sequence[str]) -> str:
    """The group of a check: the first block that it or a site that it covers is named after, else "start" or "end". names: the
    check's, and its sites'."""
    if named := _BLOCK.search(" ".join(names)):
        return f"block.{named[1]}"
    return "end" if any(name in _END for name in names[1:]) else "start"


def outside_of(step: str, group: str) -> str:
    """The tensor of a group's own alarms: bool (batch, checks), in the order of their places."""
    return f"{PREFIX}{step}.{group}.outside"


def _group(graph: GraphEditor, step: str, name: str, relations: tuple[Relation, ...]) -> CheckGroup:
    prefix = f"{PREFIX}{step}.{name}"
    vectors = Vectors(graph, prefix)
    for relation in relations:
        relation.needs(vectors)
    terms = [relation.terms(vectors) for relation in relations]
    sums = [vector.name for vector in vectors.all]
    joined = graph.add("Concat", sums, f"{prefix}.sums", axis=2) if len(sums) > 1 else sums[0]
    row = graph.add("Flatten", [joined], f"{prefix}.row", axis=1)
    matrix = graph.constant(f"{prefix}.coefficients", matrix_of(terms, vectors.all))
    less = np.array([-relation.constant for relation in relations], np.float32)
    value = graph.add("Gemm", [row, matrix, graph.constant(f"{prefix}.constants", less)], f"{prefix}.value")
    ends = {
        end: graph.constant(f"{prefix}.{end}", np.full(len(relations), size, np.float32))
        for end, size in (("low", -_LARGEST), ("high", _LARGEST))
    }
    above = graph.add("GreaterOrEqual", [value, ends["low"]], f"{prefix}.above")
    below = graph.add("LessOrEqual", [value, ends["high"]], f"{prefix}.below")
    within = graph.add("And", [above, below], f"{prefix}.within")
    outside = graph.add("Not", [within], outside_of(step, name))  # so that NaN, which is within nothing, is an alarm
    alarms = graph.add("Cast", [outside], f"{prefix}.alarms", to=TensorProto.FLOAT)
    graph.add("ReduceMax", [alarms, graph.axes(1)], f"{FLAG}{step}.{name}", keepdims=1)
    return CheckGroup(name, value, ends["low"], ends["high"], relations)


def join_flags(proto: ModelProto) -> ModelProto:
    """The file with DETECTED as its second output: whether any flag is up. Without flags, as it is."""
    flags = [name for node in proto.graph.node for name in node.output if name.startswith(FLAG)]
    if not flags:
        return proto
    graph = GraphEditor(proto)
    joined = graph.add("Concat", flags, f"{PREFIX}flags", axis=1) if len(flags) > 1 else flags[0]
    highest = graph.add("ReduceMax", [joined, graph.axes(1)], f"{PREFIX}highest_flag", keepdims=0)
    graph.add("Cast", [highest], DETECTED, to=TensorProto.BOOL)
    batch = next(iter(proto.graph.input)).type.tensor_type.shape.dim[0].dim_param or "batch"
    graph.proto.graph.output.append(helper.make_tensor_value_info(DETECTED, TensorProto.BOOL, [batch]))
    done = graph.finished()
    order_for_cache(done)
    return done


# ---- thresholds


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
    human = GraphEditor(proto).human
    for group in groups:
        ends = [
            _bounds(relation, seen[group.value][:, at], rules, factor) for at, relation in enumerate(group.relations)
        ]
        for name, side in ((group.low, 0), (group.high, 1)):
            array = np.array([end[side] for end in ends], np.float32)
            stored[name].CopyFrom(numpy_helper.from_array(array, name))
        for at, (relation, (low, high)) in enumerate(zip(group.relations, ends, strict=True)):
            covers = tuple(human.get(tensor, tensor) for tensor in relation.covers)
            noise = float(np.abs(seen[group.value][:, at]).max())
            rule = rules.get(relation.name) if relation.bound is None else relation.bound[1]
            rule = rule if rule is None else rule + relation.allowance
            places.append(ProtectedPlace(relation.name, relation.kind, covers, low, high, noise, rule))
    onnx.checker.check_model(bounded)
    return bounded, places


def _noise(proto: ModelProto, groups: Sequence[CheckGroup], calibration: CalibrationSet) -> dict[str, NDArray]:
    """Values of all checks (n, checks) on every engine and in batches of several sizes."""
    names = [group.value for group in groups]
    parts: dict[str, list[NDArray]] = {name: [] for name in names}
    for engine in calibration.engines:
        for batch in _BATCHES:
            images = calibration.images if batch > 1 else calibration.images[:32]
            for name, array in values(proto, names, images, engine, calibration.precision, batch).items():
                if name in parts:
                    parts[name].append(array.astype(np.float64))
    joined = {name: np.concatenate(some) for name, some in parts.items()}
    for group in groups:
        broken = np.flatnonzero(~np.isfinite(joined[group.value]).all(axis=0))
        if len(broken):
            raise TestbedError(
                f"the check {group.relations[broken[0]].name} is not finite on real images: leave its site out of --where"
            )
    return joined


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
    """Per product, the bound of `rounding_bound` on the calibration images."""
    statistics = {r.name: r.statistics for group in groups for r in group.relations if r.statistics is not None}
    taken = [tensor for each in statistics.values() for tensor in each.taken]
    if not taken:
        return {}
    engine, precision = calibration.engines[0], calibration.precision
    seen = extremes(proto, taken, calibration.images, engine, precision)
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
