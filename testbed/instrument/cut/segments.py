"""ONNX -> ONNX: a graph cut at tensors, so that only a part of it need run.

A segment computes some tensors of a file from others of it, by the file's own nodes. It is refused where it would need
more of the image than it is given: cuts are found in the graph, not guessed from names.

Compilers fuse over tensors that a twin's ports keep apart, and round differently then. ``opaque`` keeps a tensor apart
at no cost: it is reshaped and back by a shape that is known at run time only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from testbed.instrument.cut.flow import CannotCut, Flow, Shape, is_number
from testbed.instrument.slicing import FROM_SHAPE

FLAT = "opaque_shape"
FLAT_SHAPE: NDArray[np.int64] = np.array([0, -1], np.int64)
"""What a segment's input ``FLAT`` is to be fed."""


def cut_segment(flow: Flow, inputs: Sequence[str], outputs: Sequence[str]) -> ModelProto:
    """``outputs`` as a function of ``inputs``, both led by the batch.

    Raises CannotCut where another tensor that depends on the image is needed.
    """
    nodes = [flow.nodes[index] for index in flow.between(inputs, outputs)]
    return model_of(flow, nodes, [flow.declared(n) for n in inputs], [flow.declared(n) for n in outputs], {})


def model_of(
    flow: Flow,
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    constants: Mapping[str, NDArray],
    shapes: Mapping[str, Shape] | None = None,
) -> ModelProto:
    """A model of these nodes, with what they need that does not depend on the image.

    shapes: of tensors that are of another shape here than in the file.

    Shapes that were taken from live tensors are made of their numbers and the batch of the first input: the tensor may
    not be there, or only some rows of it.
    """
    given = {value.name for value in inputs} | set(constants) | {name for node in nodes for name in node.output}
    batch = inputs[0].name
    made: dict[int, list[NodeProto]] = {}
    sized = {name for name in given if not _is_told(flow.shapes.get(name))}

    def provide(name: str) -> None:
        if not name or name in given or name in flow.stored:
            return
        if name not in flow.producer:
            raise CannotCut(f"the segment needs {name!r}, which is outside of it")
        index = flow.producer[name]
        if index in made:
            return
        node = flow.nodes[index]
        if node.op_type in FROM_SHAPE and node.input[0] in flow.live:
            made[index] = list(_known_shape(flow, node, batch)) if node.input[0] not in sized else [node]
            return
        made[index] = [node]
        for needed in node.input:
            provide(needed)

    for node in nodes:
        for name in node.input:
            provide(name)
    # only what hangs on the batch must come after the inputs, and inputs are there from the start
    before = [node for index in sorted(made) for node in made[index]]
    held = _ordered([*before, *nodes], {v.name for v in inputs} | set(constants) | set(flow.stored))
    used = {name for node in held for name in node.input} | {v.name for v in outputs}
    graph = helper.make_graph(
        held,
        "segment",
        list(inputs),
        list(outputs),
        [
            *(tensor for name, tensor in flow.stored.items() if name in used),
            *(numpy_helper.from_array(array, name) for name, array in constants.items() if name in used),
        ],
        value_info=_typed(flow, held, {v.name for v in outputs}, shapes or {}),
    )
    return helper.make_model(graph, opset_imports=flow.proto.opset_import, ir_version=flow.proto.ir_version)


def opaque(proto: ModelProto, tensors: Mapping[str, tuple[int, ...]]) -> ModelProto:
    """The same computation, no operator of which can be fused with another over any of these tensors.

    tensors: name -> shape for one image. The model gains the input ``FLAT``, to be fed ``FLAT_SHAPE``, if it has any of
    the tensors inside.
    """
    done = ModelProto()
    done.CopyFrom(proto)
    graph = done.graph
    outputs = {value.name for value in graph.output}
    nodes, any_inside = [], False
    for node in graph.node:
        nodes.append(node)
        for number, name in enumerate(node.output):
            if name in tensors and name not in outputs:
                node.output[number] = f"{name}/seen"
                shape = f"{name}/shape"
                graph.initializer.append(numpy_helper.from_array(np.array([-1, *tensors[name]], np.int64), shape))
                nodes.append(helper.make_node("Reshape", [f"{name}/seen", FLAT], [f"{name}/flat"]))
                nodes.append(helper.make_node("Reshape", [f"{name}/flat", shape], [name]))
                any_inside = True
    del graph.node[:]
    graph.node.extend(nodes)
    if any_inside:
        graph.input.append(helper.make_tensor_value_info(FLAT, TensorProto.INT64, [2]))
    return done


def _typed(
    flow: Flow, nodes: Sequence[NodeProto], outputs: set[str], shapes: Mapping[str, Shape]
) -> list[ValueInfoProto]:
    """What is known of the tensors on the way: engines fuse some patterns only where they know the shapes."""
    values = []
    for name in (name for node in nodes for name in node.output if name not in outputs):
        shape = shapes.get(name, flow.shapes.get(name))
        if name in flow.types and shape is not None and _is_told(shape):
            dims: list[str | int | None] = ["batch" if size is None else size for size in shape]
            values.append(helper.make_tensor_value_info(name, flow.types[name], dims))
    return values


def _is_told(shape: Shape | None) -> bool:
    """Each dimension is the batch or a number."""
    return shape is not None and all(size is None or is_number(size) for size in shape)


def _known_shape(flow: Flow, node: NodeProto, batch: str) -> Iterator[NodeProto]:
    """Nodes that give the shape of a tensor without it: its numbers, and the batch of ``batch``."""
    shape = flow.shapes.get(node.input[0])
    if node.op_type != "Shape" or shape is None or not _is_told(shape):
        raise CannotCut(f"the size of {node.input[0]!r} is needed where it is not known")
    attributes = {a.name: a.i for a in node.attribute}
    end = attributes.get("end", len(shape))
    wanted = shape[attributes.get("start", 0) : end]
    out, parts = node.output[0], []
    for index, size in enumerate(wanted):
        part = f"{out}/{index}"
        if size is None:
            yield helper.make_node("Shape", [batch], [f"{part}/all"])
            yield helper.make_node("Constant", [], [f"{part}/first"], value_ints=[0])
            yield helper.make_node("Gather", [f"{part}/all", f"{part}/first"], [part], axis=0)
        else:
            yield helper.make_node("Constant", [], [part], value_ints=[size])
        parts.append(part)
    yield helper.make_node("Concat", parts, [out], axis=0)


def _ordered(nodes: Sequence[NodeProto], given: set[str]) -> list[NodeProto]:
    """Orders nodes so that each follows what it needs; otherwise as they come."""
    known, ordered, waiting = set(given) | {""}, [], list(nodes)
    while waiting:
        left = []
        for node in waiting:
            if all(name in known for name in node.input):
                ordered.append(node)
                known.update(node.output)
            else:
                left.append(node)
        if len(left) == len(waiting):
            missing = next(name for name in left[0].input if name not in known)
            raise CannotCut(f"the segment needs {missing!r}, which is outside of it")
        waiting = left
    return ordered
