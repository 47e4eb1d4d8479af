"""Relations of a graph as alarms: per group of checks one matrix product, bounds, and one flag for each image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, helper

from testbed.core.protected import DETECTED, FLAG, PREFIX
from testbed.protect.checks.relation import Relation, matrix_of
from testbed.protect.checks.sums import Vectors
from testbed.protect.graph import GraphEditor
from testbed.protect.order import order_for_cache

_LARGEST = float(np.finfo(np.float32).max)
_BLOCK = re.compile(r"block\.(\d+)\.")
_END = ("norm", "head")


@dataclass(frozen=True)
class CheckGroup:
    """The checks of one block: names of its value tensor (batch, checks) and of its bounds, and what they check. covers: of
    each, by human names."""

    name: str
    value: str
    low: str
    high: str
    relations: tuple[Relation, ...]
    covers: tuple[tuple[str, ...], ...]


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
    graph.reduce("ReduceMax", alarms, (1,), f"{FLAG}{step}.{name}", keepdims=1)
    covers = tuple(tuple(map(graph.named, relation.covers)) for relation in relations)
    return CheckGroup(name, value, ends["low"], ends["high"], relations, covers)


def join_flags(proto: ModelProto) -> ModelProto:
    """The file with DETECTED as its second output: whether any flag is up. Without flags, as it is."""
    flags = [name for node in proto.graph.node for name in node.output if name.startswith(FLAG)]
    if not flags:
        return proto
    graph = GraphEditor(proto)
    joined = graph.add("Concat", flags, f"{PREFIX}flags", axis=1) if len(flags) > 1 else flags[0]
    highest = graph.reduce("ReduceMax", joined, (1,), f"{PREFIX}highest_flag", keepdims=0)
    graph.add("Cast", [highest], DETECTED, to=TensorProto.BOOL)
    batch = next(iter(proto.graph.input)).type.tensor_type.shape.dim[0].dim_param or "batch"
    graph.proto.graph.output.append(helper.make_tensor_value_info(DETECTED, TensorProto.BOOL, [batch]))
    done = graph.finished()
    order_for_cache(done)
    return done
