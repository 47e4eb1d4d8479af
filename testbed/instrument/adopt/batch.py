"""A dynamic batch for files that were exported with a fixed batch of one, proven by running them.

Three things hold such a file to one image: its input's declaration, shapes of reshapes, and constants (a class token)
joined to the image's tokens. The result must give, for every row of a larger batch, what the file gives for that image.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from testbed.core.errors import EngineError, UsageError
from testbed.instrument.probe import Probe, open_probe
from testbed.instrument.shapes import input_shape, model_input
from testbed.instrument.sites.fused import graph_of
from testbed.instrument.sites.pattern_graph import Graph

BATCH = "batch"
_ROWS = 3
_SAME = 1e-5  # another batch size may choose another kernel, which rounds differently
_NUMBERS = {"batch/zero": 0, "batch/one": 1, "batch/last": 2**31 - 1}


def with_dynamic_batch(proto: ModelProto) -> tuple[ModelProto, str]:
    """The model with a dynamic batch, and what was done, for people; ``proto`` and "" where it has one.

    A batch that is declared dynamic is so where two images give two rows; else the graph may hold it to one all the same.
    Raises UsageError saying how to export where the file cannot be rewritten.
    """
    declared = model_input(proto).type.tensor_type.shape.dim[0].dim_value
    trouble = f"the model's batch is fixed at {declared}" if declared else _trouble(proto)
    if not trouble:
        return proto, ""
    advice = (
        f"{trouble}; export it with a dynamic batch: torch.onnx.export(..., dynamic_shapes=({{0: 'batch'}},)) or, with"
        " the older exporter, dynamic_axes={'images': {0: 'batch'}}"
    )
    if declared > 1:
        raise UsageError(advice)
    try:
        dynamic = _rewritten(proto)
        images = _images(proto, _ROWS)
        wanted = np.concatenate([run_rows(proto, images[row : row + 1]) for row in range(_ROWS)])
        outputs = run_rows(dynamic, images)
    except EngineError as error:
        raise UsageError(advice) from error
    if outputs.shape != wanted.shape or not np.allclose(outputs, wanted, rtol=_SAME, atol=_SAME * np.abs(wanted).max()):
        raise UsageError(advice)
    held = "fixed at 1" if declared else "said to be dynamic but held to one image"
    return dynamic, f"its batch, {held}, is made dynamic; checked to give the same rows"


def _trouble(proto: ModelProto) -> str:
    """What is wrong with a batch that is declared dynamic; "" where nothing is, or where no engine here runs the file."""
    images = _images(proto, 3)
    try:
        runner = _engine(proto)
    except EngineError:
        return ""
    with runner:

        def refused(rows: int) -> str:
            try:
                given = _rows(runner, proto, images[:rows]).shape[:1]
            except EngineError as error:
                return str(error)
            return "" if given == (rows,) else f"{rows} images do not give {rows} rows"

        two, three = refused(2), refused(3)
        if not two and not three:
            return ""
        if not two or not three:
            held = 3 if two else 2
            return f"the model's input declares a dynamic batch, but its graph holds it to {held} images"
        if refused(1):
            return (
                f"the model's input declares a dynamic batch, but it runs neither with one image nor with two ({two})"
            )
    return "the model's input declares a dynamic batch, but its graph holds it to one image"


def _images(proto: ModelProto, rows: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((rows, *input_shape(proto))).astype(np.float32)


def run_rows(proto: ModelProto, images: NDArray[np.float32]) -> NDArray:
    """The first output, in double precision. Raises EngineError."""
    with _engine(proto) as runner:
        return _rows(runner, proto, images)


def _engine(proto: ModelProto) -> Probe:
    return open_probe(proto, "batch")


def _rows(runner: Probe, proto: ModelProto, images: NDArray[np.float32]) -> NDArray:
    value = model_input(proto)
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return runner.run({value.name: images.astype(dtype)})[proto.graph.output[0].name].astype(np.float64)


def _rewritten(fixed: ModelProto) -> ModelProto:
    proto = ModelProto()
    proto.CopyFrom(fixed)
    for value in (model_input(proto), *proto.graph.output):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_param = BATCH
    del proto.graph.value_info[:]  # they speak of one image
    graph = graph_of(fixed)
    nodes = []
    for node in proto.graph.node:
        if node.op_type == "Reshape" and node.input[0] in graph.live:
            node.input[1] = _opened(proto, graph, node)
        if node.op_type == "Concat" and node.output[0] in graph.live:
            nodes += _widened(graph, node)
        nodes.append(node)
    constants = [numpy_helper.from_array(np.array([number], np.int64), name) for name, number in _NUMBERS.items()]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(constants)
    return proto


def _opened(proto: ModelProto, graph: Graph, node: NodeProto) -> str:
    """Name of the reshape's shape with its first number open: to be found out or, where another is, to be kept (0)."""
    shape = _constant(graph, node.input[1])
    if shape is None or shape[0] < 1:
        return str(node.input[1])
    name = f"{node.output[0]}/shape"
    first = 0 if (shape[1:] == -1).any() else -1
    for attribute in node.attribute:
        if attribute.name == "allowzero":
            attribute.i = 0
    proto.graph.initializer.append(numpy_helper.from_array(np.array([first, *shape[1:]], np.int64), name))
    return name


def _widened(graph: Graph, node: NodeProto) -> list[NodeProto]:
    """Nodes that repeat each operand that does not carry the image as often as there are images."""
    like = next(name for name in node.input if name in graph.live)
    made = []
    for position, name in enumerate(node.input):
        if name not in graph.live:
            stem = f"{node.output[0]}/{position}"
            made += [
                helper.make_node("Shape", [like], [f"{stem}/like"]),
                helper.make_node("Gather", [f"{stem}/like", "batch/zero"], [f"{stem}/images"]),
                helper.make_node("Shape", [name], [f"{stem}/own"]),
                helper.make_node("Slice", [f"{stem}/own", "batch/one", "batch/last"], [f"{stem}/rest"]),
                helper.make_node("Concat", [f"{stem}/images", f"{stem}/rest"], [f"{stem}/shape"], axis=0),
                helper.make_node("Expand", [name, f"{stem}/shape"], [f"{stem}/wide"]),
            ]
            node.input[position] = f"{stem}/wide"
    return made


def _constant(graph: Graph, tensor: str) -> NDArray | None:
    if tensor in graph.initializers:
        return numpy_helper.to_array(graph.initializers[tensor])
    made = graph.producer.get(tensor)
    value = made.attribute("value") if made is not None and made.op == "Constant" else None
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else None
