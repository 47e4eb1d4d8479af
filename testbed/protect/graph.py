"""An ONNX graph that protection is added to: what is there keeps its name, what comes has a name led by ``protect.``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from testbed.core.errors import UsageError
from testbed.core.protected import DETECTED, PREFIX, PROTECTION, is_protected
from testbed.core.site import Site
from testbed.instrument.adopt.mend import sort_nodes
from testbed.instrument.cut.flow import Flow
from testbed.instrument.sites.catalogue import catalogue
from testbed.instrument.sites.fused import graph_of
from testbed.instrument.sites.layers import Norm, norms
from testbed.instrument.slicing import FROM_SHAPE

_OLDEST_OPSET = 13  # the first in which ReduceSum, Squeeze and Unsqueeze take their axes as an input
_REDUCTIONS_TAKE_AXES = 18  # the first opset in which axes are an input of all others
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_TYPED = (TensorProto.FLOAT, *_HALVES)


class GraphEditor:
    """A graph while a pass adds to it. ``proto`` is a copy; ``flow`` describes it as it was when the pass began.

    Raises UsageError for a file without recognisable sites.
    """

    def __init__(self, proto: ModelProto) -> None:
        self.proto = ModelProto()
        self.proto.CopyFrom(proto)
        self.flow = Flow.of(self.proto)
        self._names = {name for node in self.proto.graph.node for name in node.output}
        self._names |= {tensor.name for tensor in self.proto.graph.initializer}

    @cached_property
    def sites(self) -> Mapping[str, Site]:
        """Activation sites of the model itself by human name, in execution order."""
        table = catalogue(self.proto.SerializeToString())
        if not table.recognised:
            raise UsageError("no ViT's attention is recognised in this file: there is nothing that a pass could name")
        chosen = (s for s in table.recognised if s.where == "activation" and not s.name.startswith(PREFIX))
        return {site.name: site for site in chosen}

    @cached_property
    def written_norms(self) -> Mapping[str, Norm]:
        """Layer norms that are written as several operators, by what they give."""
        every = norms(graph_of(self.proto))
        return {name: norm for name, norm in every.items() if not self._is_norm(name) and not self._is_inside(norm)}

    def _is_inside(self, norm: Norm) -> bool:
        """A centred norm holds an RMS norm, of what its mean was subtracted from."""
        node = self.producer(norm.input)
        return not norm.is_centred and node is not None and node.op_type == "Sub"

    def _is_norm(self, tensor: str) -> bool:
        node = self.producer(tensor)
        return node is None or node.op_type.endswith("Normalization")

    @cached_property
    def human(self) -> Mapping[str, str]:
        """Tensor -> the human name of its site."""
        return {site.tensor: name for name, site in self.sites.items()}

    def named(self, tensor: str) -> str:
        """A site's human name; of any other tensor its own."""
        return self.human.get(tensor, tensor)

    def element(self, tensor: str) -> int:
        """ONNX element type of a tensor."""
        if tensor in self.flow.stored:
            return int(self.flow.stored[tensor].data_type)
        return self.flow.types[tensor]

    def shape(self, tensor: str) -> tuple[int | None, ...]:
        """Shape of a tensor, None for the batch; () where it is not known."""
        if tensor in self.flow.stored:
            return tuple(self.flow.stored[tensor].dims)
        return self.flow.shapes.get(tensor, ())

    def consumers(self, tensor: str) -> list[NodeProto]:
        """Nodes that take the tensor's values."""
        return [self.flow.nodes[index] for index in self.flow.consumers.get(tensor, [])]

    def producer(self, tensor: str) -> NodeProto | None:
        """The node that makes a tensor; None for inputs and weights."""
        index = self.flow.producer.get(tensor)
        return None if index is None else self.flow.nodes[index]

    # ---- what is added

    def has(self, name: str) -> bool:
        """Whether a tensor of that name is there."""
        return name in self._names

    def add(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node with one output, and give back that. Raises AssertionError for a name that is taken."""
        assert output.startswith(PREFIX) or output == DETECTED, output
        assert output not in self._names, output
        self._names.add(output)
        self.proto.graph.node.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def add_like(self, node: NodeProto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Add a node like another, between other tensors."""
        assert not self._names.intersection(outputs), outputs
        self._names.update(outputs)
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.input[:], copy.output[:], copy.name = inputs, outputs, outputs[0]
        self.proto.graph.node.append(copy)
        for old, new in zip(node.output, outputs, strict=True):
            if old in self._typed:
                value = self.proto.graph.value_info.add()
                value.CopyFrom(self._typed[old])
                value.name = new

    @cached_property
    def _typed(self) -> dict[str, ValueInfoProto]:
        """What the file says of its tensors."""
        return {value.name: value for value in self.proto.graph.value_info}

    def constant(self, name: str, array: NDArray) -> str:
        """Add an initializer, once for each name, and give back the name."""
        assert name.startswith(PREFIX), name
        if name not in self._names:
            self._names.add(name)
            self.proto.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def axes(self, *axes: int) -> str:
        """An initializer that holds axes."""
        text = "_".join(map(str, axes)).replace("-", "m")
        return self.constant(f"{PREFIX}axes.{text}", np.array(axes, np.int64))

    def reduce(self, op: str, tensor: str, axes: tuple[int, ...], output: str, keepdims: int) -> str:
        """Add a reduction over axes, as the file's opset writes it, and give back its output."""
        if op == "ReduceSum" or self.flow.opset >= _REDUCTIONS_TAKE_AXES:
            return self.add(op, [tensor, self.axes(*axes)], output, keepdims=keepdims)
        return self.add(op, [tensor], output, axes=list(axes), keepdims=keepdims)

    def wide(self, tensor: str, prefix: str) -> str:
        """The tensor as float32: itself, or a cast named after it; of uint8 that is turned back, as it is turned back again.

        ONNX Runtime computes a product in integers only where nothing else takes what its DequantizeLinear gives.
        """
        source = self.producer(tensor)
        if source is not None and source.op_type == "DequantizeLinear" and self._is_unsigned(source.input[0]):
            return self._turned_back(source, f"{prefix}.{self.named(tensor)}.again")
        if self.element(tensor) == TensorProto.FLOAT:
            return tensor
        name = f"{prefix}.{self.named(tensor)}.fp32"
        return name if name in self._names else self.add("Cast", [tensor], name, to=TensorProto.FLOAT)

    def _is_unsigned(self, tensor: str) -> bool:
        return tensor in self.flow.live and self.element(tensor) == TensorProto.UINT8

    def _turned_back(self, node: NodeProto, name: str) -> str:
        """The output of a DequantizeLinear like a given one; the same where its scale is not stored.

        Engines merge two that take equal numbers, so this one's scale is the next number in its format: what that moves is
        less than the rounding of a sum.
        """
        scale = self.flow.constant(node.input[1])
        if name in self._names or scale is None:
            return name if name in self._names else node.output[0]
        other = self.constant(f"{name}.scale", np.nextafter(scale, scale.dtype.type(np.inf)))
        settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        return self.add("DequantizeLinear", [node.input[0], other, *node.input[2:]], name, **settings)

    def redirect(self, tensor: str, to: str) -> None:
        """Let every node that was there when the pass began take ``to`` where it took ``tensor``."""
        for node in self.proto.graph.node[: len(self.flow.nodes)]:
            if node.op_type not in FROM_SHAPE:
                node.input[:] = [to if name == tensor else name for name in node.input]

    def finished(self) -> ModelProto:
        """The graph with its nodes in order and what was added typed; checked. What is there is no longer changed."""
        sort_nodes(self.proto.graph)
        known = {value.name for value in (*self.proto.graph.value_info, *self.proto.graph.output)}
        typed = onnx.shape_inference.infer_shapes(self.proto)
        for value in typed.graph.value_info:
            added = value.name.startswith(PREFIX) and value.name not in known
            if added and value.type.tensor_type.elem_type in _TYPED:
                self.proto.graph.value_info.append(value)
        onnx.checker.check_model(self.proto)
        return self.proto


def check_unprotected(proto: ModelProto, name: str) -> None:
    """Raises UsageError for a file that is protected already, or of an opset that lacks what checks are made of."""
    if is_protected(proto):
        raise UsageError(f"{name} is protected already; protect the model that it was made from")
    opset = next((int(entry.version) for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < _OLDEST_OPSET:
        raise UsageError(
            f"{name} is of opset {opset}; protection needs {_OLDEST_OPSET} or later: export it again (opset_version=18)"
        )


def marked(proto: ModelProto, passes: Sequence[Mapping[str, Any]]) -> ModelProto:
    """The file with its passes in its metadata, beside what was there."""
    props = {entry.key: entry.value for entry in proto.metadata_props}
    onnx.helper.set_model_props(proto, props | {PROTECTION: json.dumps(list(passes), sort_keys=True)})
    return proto
