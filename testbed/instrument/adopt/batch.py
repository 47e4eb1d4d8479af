"""A dynamic batch for files that were exported with a fixed one, proven by running them.

Three things hold such a file to its number of images: its input's declaration, shapes of reshapes, and constants (a class
token) joined to the images' tokens. The result must give, for every row of another batch, what the file gives for that
image. A file of one image that resists is run with one image at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from testbed.core.errors import EngineError, UsageError
from testbed.instrument.adopt.batch_axis import opened_along_axes
from testbed.instrument.lean.stored import TooLarge
from testbed.instrument.outputs import tensor_outputs
from testbed.instrument.probe import Probe, TooMuchMemory, open_probe, open_weightless
from testbed.instrument.shapes import gives_rows, input_shape, model_input
from testbed.instrument.sites.fused import graph_of
from testbed.instrument.sites.pattern_graph import Graph

BATCH = "batch"
_ROWS = 3
_SAME = 1e-5  # another batch size may choose another kernel, which rounds differently
_ADVICE = (
    "export it with a dynamic batch: torch.onnx.export(..., dynamic_shapes=({0: 'batch'},)) or, with the older exporter,"
    " dynamic_axes={'images': {0: 'batch'}}"
)
_SIZES = "export it again, for images of the channels and size that it was built for"
_NUMBERS = {"batch/zero": 0, "batch/one": 1, "batch/last": 2**31 - 1}


def with_dynamic_batch(proto: ModelProto) -> tuple[ModelProto, str]:
    """The model with a dynamic batch, and what was done, for people; ``proto`` and "" where it has one.

    A batch that is declared dynamic is so where two images give two rows; else the graph may hold it to one all the same.
    A model of one image that cannot be made dynamic is given back with its batch declared as 1. Raises UsageError saying
    how to export where a model of several images cannot be rewritten.
    """
    declared = model_input(proto).type.tensor_type.shape.dim[0].dim_value
    trouble = _Trouble(f"the model's batch is fixed at {declared}", declared) if declared else _trouble(proto)
    if trouble is None:
        return proto, ""
    held = f"fixed at {declared}" if declared else f"said to be dynamic but held to {_counted(trouble.held)}"
    for rewrite in (_rewritten, _rewritten_along_axes) if trouble.held == 1 else (_rewritten,) if trouble.held else ():
        try:
            dynamic = rewrite(proto, trouble.held)
            if _is_proven(proto, dynamic, trouble.held):
                return dynamic, f"its batch, {held}, is made dynamic; checked to give the same rows"
        except (EngineError, TooMuchMemory, TooLarge):
            continue
    if trouble.held != 1:
        raise UsageError(f"{trouble.why}; {_ADVICE}")
    return _declared_as_one(proto), (
        f"its batch, {held}, cannot be made dynamic: one image, and one fault, is run at a time; to run more, {_ADVICE}"
    )


@dataclass(frozen=True)
class _Trouble:
    """``held``: how many images the file takes, 0 where that is not clear."""

    why: str
    held: int


def _counted(images: int) -> str:
    return "one image" if images == 1 else f"{images} images"


def _trouble(proto: ModelProto) -> _Trouble | None:
    """What is wrong with a batch that is declared dynamic; None where nothing is, or where no engine here runs the file."""
    try:
        if gives_rows(proto):
            return None
    except EngineError:
        pass
    images = _images(proto, 3)
    try:
        runner = open_weightless(proto, "batch")
    except EngineError:
        return None
    with runner:

        def refused(rows: int) -> str:
            try:
                outputs = _outputs(runner, proto, images[:rows])
            except EngineError as error:
                return str(error)
            return "" if outputs.shape[1] else f"{rows} images do not give {rows} rows"

        two, three = refused(2), refused(3)
        if not two and not three:
            return None
        declares = "the model's input declares a dynamic batch, but"
        if not two or not three:
            held = 3 if two else 2
            return _Trouble(f"{declares} its graph holds it to {held} images", held)
        if alone := refused(1):
            if alone == two:  # whatever the batch
                sizes = ", ".join(map(str, input_shape(proto)))
                raise UsageError(
                    f"the model does not run on images of ({sizes}), as its input declares them: {alone}; {_SIZES}"
                )
            return _Trouble(f"{declares} it runs neither with one image nor with two ({two})", 0)
    return _Trouble(f"{declares} its graph holds it to one image", 1)


def _is_proven(fixed: ModelProto, dynamic: ModelProto, held: int) -> bool:
    """Whether both give the same rows: in batches of another size, and for one image alone."""
    images = _images(fixed, _ROWS if held == 1 else 2 * held)
    wanted = np.concatenate([_run(fixed, images[row : row + held]) for row in range(0, len(images), held)])
    together, alone = _run(dynamic, images), _run(dynamic, images[:1])
    if not wanted.shape[1] or together.shape != wanted.shape or alone.shape != wanted[:1].shape:
        return False
    atol = _SAME * np.abs(wanted).max()
    return np.allclose(together, wanted, rtol=_SAME, atol=atol) and np.allclose(
        alone, wanted[:1], rtol=_SAME, atol=atol
    )


def _declared_as_one(proto: ModelProto) -> ModelProto:
    single = ModelProto()
    single.CopyFrom(proto)
    model_input(single).type.tensor_type.shape.dim[0].dim_value = 1
    return single


def _images(proto: ModelProto, rows: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((rows, *input_shape(proto))).astype(np.float32)


def run_rows(proto: ModelProto, images: NDArray[np.float32]) -> NDArray:
    """The first output, in double precision. Raises EngineError."""
    with _engine(proto) as runner:
        return _rows(runner, proto, images)


def _run(proto: ModelProto, images: NDArray[np.float32]) -> NDArray:
    with _engine(proto) as runner:
        return _outputs(runner, proto, images)


def _outputs(runner: Probe, proto: ModelProto, images: NDArray[np.float32]) -> NDArray:
    """(n, ...) all outputs that have a row for each of the images, side by side, in double precision."""
    value = model_input(proto)
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    given = runner.run({value.name: images.astype(dtype)})
    outputs = [np.asarray(given[name]) for name in tensor_outputs(proto)]
    rows = [output for output in outputs if output.shape[:1] == (len(images),)]
    flat = [row.reshape(len(images), -1).astype(np.float64) for row in rows]
    return np.concatenate([np.empty((len(images), 0)), *flat], axis=1)


def _engine(proto: ModelProto) -> Probe:
    return open_probe(proto, "batch")


def _rows(runner: Probe, proto: ModelProto, images: NDArray[np.float32]) -> NDArray:
    value = model_input(proto)
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return runner.run({value.name: images.astype(dtype)})[proto.graph.output[0].name].astype(np.float64)


def _declared_dynamic(fixed: ModelProto) -> ModelProto:
    proto = ModelProto()
    proto.CopyFrom(fixed)
    for value in (model_input(proto), *proto.graph.output):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_param = BATCH
    del proto.graph.value_info[:]  # they speak of one image
    return proto


def _rewritten_along_axes(fixed: ModelProto, held: int) -> ModelProto:
    """Rewrite a model of one image, whatever axis the images are in."""
    proto = _declared_as_one(fixed)
    opened_along_axes(proto)
    return _declared_dynamic(proto)


def _rewritten(fixed: ModelProto, held: int) -> ModelProto:
    proto = _declared_dynamic(fixed)
    graph = graph_of(fixed)
    nodes = []
    for node in proto.graph.node:
        if node.op_type == "Reshape" and node.input[0] in graph.live:
            node.input[1] = _opened(proto, graph, node, held)
        if node.op_type == "Concat" and node.output[0] in graph.live:
            nodes += _widened(graph, node, held)
        nodes.append(node)
    constants = [numpy_helper.from_array(np.array([number], np.int64), name) for name, number in _NUMBERS.items()]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(constants)
    return proto


def _opened(proto: ModelProto, graph: Graph, node: NodeProto, held: int) -> str:
    """Name of the reshape's shape with its first number open: to be found out or, where another is, to be kept (0)."""
    shape = _constant(graph, node.input[1])
    if shape is None or not shape.size or shape[0] < 1 or shape[0] % held:
        return str(node.input[1])
    name = f"{node.output[0]}/shape"
    first = 0 if (shape[1:] == -1).any() else -1
    for attribute in node.attribute:
        if attribute.name == "allowzero":
            attribute.i = 0
    proto.graph.initializer.append(numpy_helper.from_array(np.array([first, *shape[1:]], np.int64), name))
    return name


def _widened(graph: Graph, node: NodeProto, held: int) -> list[NodeProto]:
    """Nodes that repeat each operand that does not carry the image as often as there are images."""
    like = next(name for name in node.input if name in graph.live)
    made = []
    for position, name in enumerate(node.input):
        if name not in graph.live:
            stem = f"{node.output[0]}/{position}"
            if held > 1:  # it is there for each of so many images
                made.append(
                    helper.make_node("Slice", [name, "batch/zero", "batch/one", "batch/zero"], [f"{stem}/first"])
                )
                name = f"{stem}/first"
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
