"""ONNX -> ONNX: a part of a graph restricted to some tokens, where the others cannot matter.

What is needed of each tensor is followed backwards from what is wanted: all of it, or rows of one axis (see `axes`).
That is a proof on the graph: an element outside the needed rows cannot reach what is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, ValueInfoProto, helper

from testbed.instrument.cut.axes import sources
from testbed.instrument.cut.flow import CannotCut, Flow, Shape, is_number
from testbed.instrument.cut.segments import model_of

ROWS = 2
"""Rows per image of a restricted graph, at least: matrix products of one row take kernels with other last bits."""


@dataclass(frozen=True)
class AxisRows:
    """Rows of one axis (of the tensor with its batch). ``which``: None is "the rows in question", whichever they are."""

    axis: int
    which: frozenset[int] | None = None


Need = AxisRows | None
"""None: all of it."""


@dataclass
class Needs:
    """What is needed of each tensor that is needed at all, and of each (node's place, its input).

    ``made_in_full``: tensors of which rows are needed, but that are made from no rows of anything.
    """

    tensors: dict[str, Need] = field(default_factory=dict)
    edges: dict[tuple[int, str], Need] = field(default_factory=dict)
    made_in_full: set[str] = field(default_factory=set)

    def rows(self, tensor: str) -> AxisRows | None:
        """The rows that are enough to be computed of a needed tensor; None where all of it is computed."""
        return None if tensor in self.made_in_full else self.tensors[tensor]

    def add(self, flow: Flow, tensor: str, need: Need) -> None:
        known = self.tensors.get(tensor, need)
        self.tensors[tensor] = need if tensor not in self.tensors else _joined(flow, tensor, known, need)


def needs(flow: Flow, places: Sequence[int], wanted: Mapping[str, Need]) -> Needs:
    """What ``wanted`` needs of the tensors that the live nodes at ``places`` (ascending) take and give."""
    needed = Needs()
    for tensor, need in wanted.items():
        needed.add(flow, tensor, need)
    for index in reversed(places):
        node = flow.nodes[index]
        outputs = [needed.tensors[name] for name in node.output if name in needed.tensors]
        if not outputs:
            continue
        wanted_rows = outputs[0] if all(o == outputs[0] for o in outputs) else None
        inputs = _of_inputs(flow, node, wanted_rows)
        if wanted_rows is None or all(need is None for need in inputs.values()):
            needed.made_in_full.update(name for name in node.output if name)
        for name, need in inputs.items():
            needed.edges[index, name] = need
            needed.add(flow, name, need)
    return needed


def rowwise(flow: Flow, places: Sequence[int], start: str, axis: int) -> dict[str, int]:
    """Tensor -> axis along which row t is made from row t of ``start`` (along ``axis``) and nothing else of the image."""
    axes = {start: axis}
    for index in places:
        node = flow.nodes[index]
        live = flow.live_inputs(node)
        if not all(name in axes for name in live):
            continue
        for own in range(len(flow.shapes.get(node.output[0], ()))):
            if sources(flow, node, own) == {name: axes[name] for name in live}:
                axes |= {name: own for name in node.output if name}
                break
    return axes


@dataclass(frozen=True)
class Restricted:
    """``shapes``: of its tensors that have only some rows, for one image."""

    proto: ModelProto
    shapes: Mapping[str, tuple[int, ...]]


def restricted(
    flow: Flow,
    places: Sequence[int],
    inputs: Sequence[str],
    wanted: Mapping[str, Need],
    rows: Sequence[int] | int,
) -> Restricted:
    """A model that computes what is wanted from ``inputs``, with the live nodes at ``places``.

    rows: which rows the graph itself picks from what it has in full, its inputs among it; or how many rows the inputs
    have of which only rows are needed, and the wanted outputs. Rows needed for another reason are left in full. Raises
    CannotCut where something would be needed both in full and in rows, and there is nobody to pick.
    """
    return _Restriction(flow, needs(flow, places, wanted), rows).model(places, inputs, list(wanted))


class _Restriction:
    def __init__(self, flow: Flow, needed: Needs, rows: Sequence[int] | int) -> None:
        self.flow, self.needs = flow, needed
        self.picks = not isinstance(rows, int)
        self.rows: list[int] = [] if isinstance(rows, int) else list(rows)
        self.count = rows if isinstance(rows, int) else len(rows)
        self.which = None if isinstance(rows, int) else frozenset(rows)
        self.constants: dict[str, NDArray] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.few: dict[str, int] = {}  # tensors of rows only -> axis
        self._now: dict[str, Shape] = {}  # and their full shapes
        self.nodes: list[NodeProto] = []

    def model(self, places: Sequence[int], inputs: Sequence[str], outputs: Sequence[str]) -> Restricted:
        for name in inputs:
            if not self.picks and (axis := self._axis(self.needs.tensors.get(name))) is not None:
                self._note(name, axis)
        for index in places:
            if any(name in self.needs.tensors for name in self.flow.nodes[index].output):
                self._emit(index)
        given, had = ([self._declared(name) for name in names] for names in (inputs, outputs))
        return Restricted(model_of(self.flow, self.nodes, given, had, self.constants, self._now), self.shapes)

    def _emit(self, index: int) -> None:
        node = NodeProto()
        node.CopyFrom(self.flow.nodes[index])
        needed = [self._axis(self.needs.rows(name)) for name in node.output if name in self.needs.tensors]
        picked = _picked(self.flow, node) if needed[0] is None else None
        for number, name in enumerate(node.input):
            axis = self._axis(self.needs.edges.get((index, name)))
            if axis is None or name in self.few:
                if axis is None and name in self.few:
                    raise CannotCut(f"{name!r} is needed in full and in rows")
                continue
            if picked is None:
                node.input[number] = self._rows_of(name, axis)
        if needed[0] is not None:
            for name in node.output:
                self._note(name, needed[0])
            if node.op_type == "Reshape":
                node.input[1] = self._shape(node.output[0])
        elif picked is not None and node.input[0] in self.few and self.few[node.input[0]] == picked.axis:
            self._renumber(node, picked)
        self.nodes.append(node)

    def _axis(self, need: Need) -> int | None:
        """The axis, where rows are needed and they are the rows in question."""
        return need.axis if need is not None and need.which == self.which else None

    def _note(self, name: str, axis: int) -> None:
        self.few[name] = axis
        shape = list(self.flow.shapes[name])
        shape[axis] = self.count
        self._now[name] = tuple(shape)
        if shape[0] is None and all(map(is_number, shape[1:])):
            self.shapes[name] = tuple(int(d or 0) for d in shape[1:])

    def _rows_of(self, name: str, axis: int) -> str:
        if not self.picks:
            raise CannotCut(f"{name!r} is needed in full and in rows")
        made = f"{name}/rows{axis}"
        if not any(made in node.output for node in self.nodes):
            self.constants["rows/chosen"] = np.array(self.rows, np.int64)
            self.nodes.append(helper.make_node("Gather", [name, "rows/chosen"], [made], axis=axis))
        return made

    def _shape(self, name: str) -> str:
        shape = list(self.flow.shapes[name])
        shape[self.few[name]] = self.count
        if sum(not is_number(d) for d in shape) > 1 or 0 in shape:
            raise CannotCut(f"{name!r} has no shape that is known but for the batch")
        self.constants[f"{name}/rows_shape"] = np.array([d if is_number(d) else -1 for d in shape], np.int64)
        return f"{name}/rows_shape"

    def _renumber(self, node: NodeProto, picked: AxisRows) -> None:
        """A node that picks a row picks it where it is now."""
        chosen = self.flow.constant(node.input[1])
        assert chosen is not None
        if node.op_type != "Gather":
            raise CannotCut(f"{node.output[0]!r} is sliced out of the tokens")
        size = self.flow.shapes[node.input[0]][picked.axis]
        name = f"{node.output[0]}/rows_index"
        now = [self.rows.index(int(i) % int(size or 1)) for i in chosen.reshape(-1)]
        self.constants[name] = np.array(now, np.int64).reshape(chosen.shape)
        node.input[1] = name

    def _declared(self, name: str) -> ValueInfoProto:
        value = self.flow.declared(name)
        if name in self.few:
            value.type.tensor_type.shape.dim[self.few[name]].dim_value = self.count
        return value


def _joined(flow: Flow, tensor: str, need: Need, other: Need) -> Need:
    if need is None or other is None or need.axis != other.axis:
        return None
    if need.which is None or other.which is None:
        return need if need.which == other.which else None
    which = need.which | other.which
    return None if len(which) == flow.shapes[tensor][need.axis] else AxisRows(need.axis, which)


def _of_inputs(flow: Flow, node: NodeProto, need: Need) -> dict[str, Need]:
    if need is not None:
        axes = sources(flow, node, need.axis)
        return {name: None if axis is None else AxisRows(axis, need.which) for name, axis in axes.items()}
    picked = _picked(flow, node)
    if picked is not None:
        return {node.input[0]: picked}
    return dict.fromkeys(flow.live_inputs(node))


def _picked(flow: Flow, node: NodeProto) -> AxisRows | None:
    """The rows that a node takes of its first input, where it takes some of one axis by constant numbers."""
    shape = flow.shapes.get(node.input[0]) if node.input else None
    if shape is None or flow.live_inputs(node) != [node.input[0]]:
        return None
    if node.op_type == "Gather":
        chosen = flow.constant(node.input[1])
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0) % len(shape)
        numbers = None if chosen is None else [int(i) for i in chosen.reshape(-1)]
    elif node.op_type == "Slice" and len(node.input) > 3:
        parts = [flow.constant(name) for name in node.input[1:] if name]
        if any(part is None or part.size != 1 for part in parts):
            return None
        start, end, own, *step = (int(part.reshape(-1)[0]) for part in parts if part is not None)
        axis = own % len(shape)
        numbers = list(range(max(0, shape[axis] or 0)))[start : end : step[0] if step else 1]
    else:
        return None
    size = shape[axis]
    if not numbers or size is None or size < 1:
        return None
    which = frozenset(number % size for number in numbers)
    return AxisRows(axis, which) if len(which) < size else None
