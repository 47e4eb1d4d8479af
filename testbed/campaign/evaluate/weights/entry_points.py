"""Where the run of a faulty weight may begin: the last tensor before its use through which everything goes."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from onnx import helper

from testbed.instrument.cut.flow import CannotCut, Flow
from testbed.instrument.cut.stages import Stages

_NORMS = ("LayerNormalization", "ReduceMean")


class EntryPoints:
    """``names``: of the tensors whose golden values are kept, in execution order; as many as fit the budget."""

    def __init__(self, stages: Stages, images: int, golden_bytes: int, inside_blocks: bool) -> None:
        """Finds the entry points. inside_blocks: not only between blocks."""
        self._inside = inside_blocks
        self._flow, self._stages = stages.flow, stages
        wanted = sorted({p for p in map(self._point, self._uses) if p is not None})
        names = [self._points[node] for node in wanted]
        while names and sum(map(self._bytes, names)) * images > golden_bytes:
            names = names[1::2]
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

    @property
    def per_stage(self) -> int:
        return math.ceil(len(self.names) / len(self._stages.stages))

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
            if self._inside or name in between:
                points[flow.producer[name]] = name
        return points

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
