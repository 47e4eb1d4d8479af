"""An ONNX graph as the way of one image through it: what depends on it, in which shapes, and where it can be cut."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from testbed.core.errors import TestbedError
from testbed.instrument.packed import PACKED, with_early_checks
from testbed.instrument.shapes import fixed_batch, input_shape, inputs_of, model_input, shapes_at
from testbed.instrument.slicing import FROM_SHAPE

Shape = tuple[int | None, ...]
"""None is the batch, -n is n times the batch (axes joined with it), 0 what depends on it in another way."""
_BATCHES = (2, 3)
_MOST_SIDE_BY_SIDE = 8
_FOLDED = ("Cast", "Identity", "Reshape")


def is_number(size: int | None) -> bool:
    """A dimension that is the same whatever the batch."""
    return size is not None and size > 0


class CannotCut(TestbedError):
    """The graph cannot be cut there, or not be restricted to some tokens."""


@dataclass(frozen=True)
class Flow:
    """A graph's nodes in execution order, and the full shapes and element types of its tensors.

    A tensor is live if it depends on the image's values; shapes, masks and what is computed from weights alone are not.
    """

    proto: ModelProto
    shapes: Mapping[str, Shape]
    types: Mapping[str, int]

    @classmethod
    def of(cls, proto: ModelProto) -> Flow:
        """Raises CannotCut for a graph with control flow or a fixed batch, EngineError where shapes cannot be measured,
        UsageError where the image's size is neither declared nor known from weights."""
        proto = with_early_checks(proto)
        if any(
            a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
            for n in proto.graph.node
            for a in n.attribute
        ):
            raise CannotCut("a graph with control flow (If, Loop, Scan) cannot be cut")
        if fixed_batch(proto):
            raise CannotCut(
                "a graph of one image at a time is not cut: which dimension is the batch cannot be measured"
            )
        typed = onnx.shape_inference.infer_shapes(proto)
        values = {v.name: v for v in (*typed.graph.value_info, *typed.graph.input, *typed.graph.output)}
        types = {name: v.type.tensor_type.elem_type for name, v in values.items()}
        batch = model_input(proto).type.tensor_type.shape.dim[0].dim_param
        declared = {name: _declared(value, batch) for name, value in values.items()}
        shapes = {name: shape for name, shape in declared.items() if shape is not None}
        made = [name for node in proto.graph.node for name in node.output if name in types]
        live = cls(proto, {}, types).live
        if any(name in live and name not in shapes for name in made):
            shapes |= _measured(proto, [name for name in made if name not in shapes])
        image = model_input(proto).name
        if image not in shapes:  # a file that leaves the image's size open, which its weights say
            shapes[image] = (None, *input_shape(proto))
        return cls(proto, shapes, types)

    @cached_property
    def nodes(self) -> list[NodeProto]:
        return list(self.proto.graph.node)

    @cached_property
    def stored(self) -> dict[str, TensorProto]:
        return {tensor.name: tensor for tensor in self.proto.graph.initializer}

    @cached_property
    def producer(self) -> dict[str, int]:
        """Tensor -> its node's place."""
        return {name: index for index, node in enumerate(self.nodes) for name in node.output if name}

    @cached_property
    def consumers(self) -> dict[str, list[int]]:
        """Live tensor -> places of the nodes that take its values (not its shape)."""
        by_tensor: dict[str, list[int]] = {}
        for index, node in enumerate(self.nodes):
            if node.op_type not in FROM_SHAPE:
                for name in dict.fromkeys(node.input):
                    by_tensor.setdefault(name, []).append(index)
        return by_tensor

    @cached_property
    def opset(self) -> int:
        return next((int(e.version) for e in self.proto.opset_import if e.domain in ("", "ai.onnx")), 0)

    @property
    def input(self) -> str:
        return str(inputs_of(self.proto)[0].name)

    @property
    def output(self) -> str:
        return str(self.proto.graph.output[0].name)

    @cached_property
    def live(self) -> frozenset[str]:
        return frozenset(self.live_order)

    @cached_property
    def live_order(self) -> list[str]:
        """Live tensors in execution order, the image first."""
        live = {value.name: None for value in inputs_of(self.proto)}
        for node in self.nodes:
            if node.op_type not in FROM_SHAPE and any(name in live for name in node.input):
                live |= dict.fromkeys(name for name in node.output if name)
        return list(live)

    def live_inputs(self, node: NodeProto) -> list[str]:
        """Live inputs without a repeated one."""
        return [] if node.op_type in FROM_SHAPE else [n for n in dict.fromkeys(node.input) if n in self.live]

    def between(self, inputs: Collection[str], outputs: Collection[str]) -> list[int]:
        """Places of the live nodes that compute ``outputs`` from ``inputs``, in execution order.

        Raises CannotCut where the image is needed beside them.
        """
        waiting, indices = [name for name in outputs if name not in inputs], set()
        while waiting:
            name = waiting.pop()
            if name not in self.producer:
                raise CannotCut(f"{few(outputs)} cannot be computed from {few(inputs)}: {name!r} is needed beside them")
            index = self.producer[name]
            if index not in indices:
                indices.add(index)
                waiting += [n for n in self.live_inputs(self.nodes[index]) if n not in inputs]
        return sorted(indices)

    def articulations(self) -> list[str]:
        """Live tensors, in execution order, through which everything that the image does to the output goes; of a packed
        output, to all of it but the alarms."""
        return list(self.crossings)

    @cached_property
    def crossings(self) -> dict[str, tuple[str, ...]]:
        """Articulation -> what else is live there and goes on to the alarms alone; nothing where there are none."""
        last_use = {name: max(places) for name, places in self.consumers.items() if name in self.live}
        last_use[self.output] = len(self.nodes)
        pending: set[str] = {self.input}
        crossings: dict[str, tuple[str, ...]] = {self.input: ()}
        reached, values = self._made_from(self.output), self._made_from(*self._values)
        for index, node in enumerate(self.nodes):
            made = [name for name in node.output if name in reached and name in self.live]
            if made:
                pending = {name for name in pending if last_use.get(name, -1) > index} | set(made)
                narrow = [name for name in pending if name in values]
                if narrow == [name for name in made if name in values] and len(narrow) == 1:
                    crossings[narrow[0]] = tuple(sorted(pending - {narrow[0]}, key=self.producer.__getitem__))
        return crossings

    @cached_property
    def wide_crossings(self) -> dict[str, tuple[str, ...]]:
        """Tensor -> the few others that the output is made from beside it, of those that are there when it is made: where
        streams run side by side, nothing is an articulation. Only where all can be kept per image."""
        last_use = {name: max(places) for name, places in self.consumers.items() if name in self.live}
        reached, pending, wide = self._made_from(self.output), {self.input}, {}
        for index, node in enumerate(self.nodes):
            made = [name for name in node.output if name in reached and name in self.live]
            if made:
                pending = {name for name in pending if last_use.get(name, -1) > index} | set(made)
                if len(made) == 1 and len(pending) <= _MOST_SIDE_BY_SIDE and self.input not in pending:
                    wide[made[0]] = tuple(sorted(pending - {made[0]}, key=self.producer.__getitem__))
        return {name: beside for name, beside in wide.items() if all(map(self._can_be_kept, (name, *beside)))}

    def _can_be_kept(self, tensor: str) -> bool:
        shape = self.shapes.get(tensor, ())
        return bool(shape) and shape[0] is None and all(map(is_number, shape[1:]))

    @property
    def _values(self) -> tuple[str, ...]:
        """The output, less the alarms that are packed into it."""
        if self.output != PACKED:
            return (self.output,)
        return (self.output, str(self.nodes[self.producer[PACKED]].input[0]))

    def _made_from(self, output: str, *through: str) -> set[str]:
        """The live tensors that ``output`` is made from, itself among them; by these of its inputs, where any are said."""
        reached = {output, *through}
        for node in reversed(self.nodes):
            if any(name in reached for name in node.output) and (not through or output not in node.output):
                reached.update(self.live_inputs(node))
        return reached

    def constant(self, tensor: str) -> NDArray | None:
        """The value of a tensor that is stored, of a Constant node, or of one of these laid out anew."""
        if tensor in self.stored:
            return numpy_helper.to_array(self.stored[tensor])
        node = self.nodes[self.producer[tensor]] if tensor in self.producer else None
        if node is None:
            return None
        first = next((helper.get_attribute_value(a) for a in node.attribute), None)
        if node.op_type == "Constant":
            if isinstance(first, TensorProto):
                return numpy_helper.to_array(first)
            return np.asarray(first) if isinstance(first, int | float | list | tuple) else None
        parts = [self.constant(name) for name in node.input] if node.op_type in _FOLDED else [None]
        if any(part is None for part in parts):
            return None
        value, *rest = (part for part in parts if part is not None)
        if node.op_type == "Cast":
            return value.astype(helper.tensor_dtype_to_np_dtype(int(first or 0)))
        return value.reshape([int(d) for d in rest[0]]) if node.op_type == "Reshape" else value

    def per_image(self, tensor: str) -> tuple[int, ...]:
        """Shape without the batch, which leads. Raises CannotCut for a tensor that the batch does not lead."""
        shape = self.shapes.get(tensor, ())
        if not self._can_be_kept(tensor):
            raise CannotCut(f"{tensor!r} is not led by the batch: it cannot be kept per image")
        return tuple(int(d) for d in shape[1:] if d)

    def declared(self, tensor: str) -> ValueInfoProto:
        return helper.make_tensor_value_info(tensor, self.types[tensor], ["batch", *self.per_image(tensor)])


def _declared(value: ValueInfoProto, batch: str) -> Shape | None:
    """None where a dimension is not known for sure."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    dims = value.type.tensor_type.shape.dim
    if not all(d.dim_value or (batch and d.dim_param == batch) for d in dims):
        return None
    return tuple(d.dim_value or None for d in dims)


def _measured(proto: ModelProto, names: list[str]) -> dict[str, Shape]:
    if not names:
        return {}
    first, second = shapes_at(proto, names, _BATCHES)
    return {name: _compared(first[name], second[name]) for name in names if len(first[name]) == len(second[name])}


def _compared(first: tuple[int, ...], second: tuple[int, ...]) -> Shape:
    return tuple(_size(*pair) for pair in zip(first, second, strict=True))


def _size(first: int, second: int) -> int | None:
    """A dimension at the two batches."""
    if first == second:
        return first
    if (first, second) == _BATCHES:
        return None
    times = first // _BATCHES[0]
    return -times if (first, second) == (times * _BATCHES[0], times * _BATCHES[1]) else 0


def few(names: Collection[str]) -> str:
    listed = list(names)
    return ", ".join(repr(name) for name in listed[:3]) + (", ..." if len(listed) > 3 else "")
