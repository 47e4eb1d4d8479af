"""Where the run of a faulty weight may begin: a tensor before its use, with the few others that are needed beside it."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from onnx import helper

from testbed.instrument.cut.flow import CannotCut, Flow
from testbed.instrument.cut.stages import Stages
from testbed.instrument.cut.work import PRODUCTS, macs

Start = Literal["operand", "weight", "block"]

_WORTH = 0.1  # of a stage's work, on average: less is not saved by an engine of its own
_NORMS = ("LayerNormalization", "ReduceMean")


class EntryPoints:
    """``names``: of the tensors that suffixes start from, in execution order; as many as fit the budgets."""

    def __init__(self, stages: Stages, images: int, golden_bytes: int, weight_bytes: int, start: Start) -> None:
        """Finds the entry points.

        start: at the last tensor through which everything goes ("weight"), such of them that lie between blocks ("block"), or,
        where that saves much, at what the weight multiplies ("operand"). golden_bytes: of golden values of all images;
        weight_bytes: that engines may hold of weights.
        """
        self._start = start
        self._flow, self._stages = stages.flow, stages
        wanted = sorted({p for p in map(self._point, self._uses) if p is not None})
        names = [self._points[node] for node in wanted]
        while names and sum(map(self._bytes, names)) * images > golden_bytes:
            names = names[1::2]
        if start == "operand":
            names = self._with_operands(names, golden_bytes // images, weight_bytes)
        self.names = names
        self._places = [self._flow.producer[name] for name in names]

    def before(self, tensors: Sequence[str]) -> str | None:
        """The last kept tensor before the first use of any of these weights; None where there is none, or for no
        weight."""
        uses = [self._uses[tensor] for tensor in tensors if tensor in self._uses]
        if not uses or len(uses) < len(tensors):
            return None
        kept = bisect_right(self._places, min(uses) - 1)
        return self.names[kept - 1] if kept else None

    def needed(self, name: str) -> tuple[str, ...]:
        """What a suffix from this tensor is fed: itself, and what goes past it."""
        crossings = self._flow.crossings
        return (name, *(crossings[name] if name in crossings else self._flow.wide_crossings.get(name, ())))

    def own_end(self, name: str) -> str | None:
        """Where an engine of its own ends, behind which the suffix from the next stage's start is run; None for none.

        The head stays with the last block, which is run for the tokens that it looks at.
        """
        end = self._stages.end_after(name)
        apart = end not in (name, self._flow.output, self._stages.stages[-1].start) and not may_fuse(self._flow, end)
        return end if self._start == "operand" and apart else None

    def own_bytes(self, names: Sequence[str]) -> int:
        """Bytes of the weights in the engines that end with the stage of these entries."""
        ends = [(name, self.own_end(name)) for name in names]
        return sum(
            self._stages.weight_bytes_between(self.needed(name), self.needed(end))
            for name, end in ends
            if end is not None
        )

    @property
    def per_stage(self) -> int:
        """How many tensors there are in a stage from which suffixes hold all that follows."""
        return math.ceil(len({self.own_end(name) or name for name in self.names}) / len(self._stages.stages))

    @cached_property
    def _points(self) -> dict[int, str]:
        """Place -> tensor through which everything goes, and that can be kept per image."""
        flow = self._flow
        points: dict[int, str] = {}
        between = {stage.start for stage in self._stages.stages}
        for name in flow.articulations():
            if name not in flow.producer or name == flow.output or may_fuse(flow, name):
                continue
            if not all(_can_be_kept(flow, kept) for kept in (name, *flow.crossings[name])):
                continue
            if self._start != "block" or name in between:
                points[flow.producer[name]] = name
        return points

    def _with_operands(self, names: list[str], golden_bytes: int, weight_bytes: int) -> list[str]:
        """The names, and what weights multiply, as far as memory allows: first where most work is saved for each byte."""
        flow = self._flow
        worth = _WORTH * macs(flow, range(len(flow.nodes))) / len(self._stages.stages)
        saved = {name: self._work_before(name, names) for name in self._operands() if name not in names}
        kept = {held for name in names for held in self.needed(name)}
        left, weights_left = golden_bytes - sum(map(self._bytes, kept)), weight_bytes // 2 - self.own_bytes(names)
        operands = []
        for name in sorted(saved, key=lambda name: -saved[name] / self._bytes(name)):
            more = set(self.needed(name)) - kept
            size, weights = sum(map(self._bytes, more)), self.own_bytes([name])
            if saved[name] >= worth and size <= left and weights <= weights_left:
                operands.append(name)
                kept |= more
                left, weights_left = left - size, weights_left - weights
        return sorted([*names, *operands], key=flow.producer.__getitem__)

    def _operands(self) -> list[str]:
        """What weights multiply; of a quantised operand what is dequantised, as engines join both in one operator."""
        flow, operands = self._flow, []
        for position in sorted(set(self._uses.values())):
            if flow.nodes[position].op_type not in PRODUCTS:
                continue
            name = next(iter(flow.live_inputs(flow.nodes[position])))
            if name in flow.producer and (node := flow.nodes[flow.producer[name]]).op_type == "DequantizeLinear":
                name = node.input[0]
            if name in flow.wide_crossings and not may_fuse(flow, name):
                operands.append(name)
        return list(dict.fromkeys(operands))

    def _work_before(self, name: str, names: Sequence[str]) -> float:
        """Multiply-accumulates from the last of ``names`` to this tensor."""
        flow = self._flow
        before = [other for other in names if flow.producer[other] < flow.producer[name]]
        given = self.needed(before[-1]) if before else (flow.input,)
        try:
            return macs(flow, flow.between(given, self.needed(name)))
        except CannotCut:
            return 0.0

    def _point(self, weight: str) -> int | None:
        places = sorted(self._points)
        before = bisect_right(places, self._uses[weight] - 1)
        return places[before - 1] if before else None

    @cached_property
    def _uses(self) -> dict[str, int]:
        """Weight -> place of the first node that joins it to the image, through whatever is computed from it before."""
        flow = self._flow
        first_uses: dict[str, int] = {}
        carried: dict[str, set[str]] = {name: {name} for name in flow.stored}
        for position, node in enumerate(flow.nodes):
            weights = set().union(*(carried.get(name, set()) for name in node.input))
            if flow.live_inputs(node):
                for weight in weights:
                    first_uses.setdefault(weight, position)
            else:
                for name in node.output:
                    carried[name] = weights
        return first_uses

    def _bytes(self, name: str) -> int:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(self._flow.types[name]))
        return math.prod(self._flow.per_image(name)) * dtype.itemsize


def may_fuse(flow: Flow, tensor: str) -> bool:
    """A sum that goes into a norm and nowhere else: engines make one operator of both, and round differently if cut."""
    uses = flow.consumers.get(tensor, [])
    norms = [position for position in uses if flow.nodes[position].op_type in _NORMS]
    return flow.nodes[flow.producer[tensor]].op_type == "Add" and len(uses) == len(norms) == 1


def _can_be_kept(flow: Flow, name: str) -> bool:
    try:
        flow.per_image(name)
    except CannotCut:
        return False
    return True
