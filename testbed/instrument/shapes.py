"""Which tensors of a file lead with the batch, their shape for one image, and their number format: measured.

Exporters write shape arithmetic that shape inference does not see through, and a dimension of size one or two can be a
batch by chance. So the file is run at two batch sizes: a tensor leads with the batch if its first dimension follows both
times and no other does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from testbed.core.errors import EngineError, TestbedError, UsageError
from testbed.core.folder.files import sha256_bytes
from testbed.instrument.element_types import element_types
from testbed.instrument.lean.read import outline
from testbed.instrument.outputs import tensor_outputs
from testbed.instrument.probe import open_probe, open_skeleton
from testbed.instrument.quantised import FLOATS
from testbed.instrument.skeleton import empty_weights, skeleton
from testbed.instrument.slicing import descendants

FORMATS: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "uint8",
    TensorProto.INT16: "int16",
    TensorProto.UINT16: "uint16",
    TensorProto.INT32: "int32",
}
_INTEGERS = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16)
_FAULTY = (*FLOATS, *_INTEGERS)
_BATCHES = (2, 3)
_REDUCED_BY_INPUT = 18  # from this opset on, the axes of a reduction are an input
_LARGEST_IMAGE = 1 << 26  # numbers: 4096 x 4096 pixels of 4 channels; three such are run to find out a file's shapes


@dataclass(frozen=True)
class PerImage:
    """A tensor without its batch dimension. ``joined``: its leading axis is the batch and the first of ``shape`` in one."""

    shape: tuple[int, ...]
    format_name: str
    joined: bool = False


def per_image(proto: ModelProto) -> dict[str, PerImage]:
    """Every tensor of the main graph that can be struck, in execution order.

    Raises EngineError when the engine refuses the file, UsageError for inputs other than one.
    """
    types = element_types(proto)
    names = [name for node in proto.graph.node for name in node.output if types.get(name) in _FAULTY]
    if not names:
        raise TestbedError(
            f"{_computes_in(proto, types)}, of whose numbers no faults are defined; convert it to float32 or float16"
        )
    if fixed_batch(proto):
        return _of_one_image(proto, names, types)
    first, second = shapes_at(proto, _with_outputs(proto, names), _BATCHES)
    by_name, parts = {}, {}
    for name in names:
        small, large = first[name], second[name]
        if len(small) < 2 or small[1:] != large[1:] or 0 in small:
            continue
        if (small[0], large[0]) == _BATCHES:
            by_name[name] = PerImage(small[1:], FORMATS[types[name]])
        elif (times := small[0] // _BATCHES[0]) > 1 and (small[0], large[0]) == tuple(times * b for b in _BATCHES):
            parts[name] = times, PerImage((times, *small[1:]), FORMATS[types[name]], joined=True)
    whole = _image_by_image(proto, {name: times for name, (times, _) in parts.items()})
    by_name |= {name: parts[name][1] for name in whole}
    return {name: by_name[name] for name in names if name in by_name}


def _image_by_image(proto: ModelProto, parts: dict[str, int]) -> list[str]:
    """Tensors in whose leading axis each image's parts lie together. parts: how many of them an image has.

    Two images are run in both orders: what is of one must move as a whole. Seen in the sum over each part, so that
    no large tensor is kept.
    """
    if not parts:
        return []
    probe, value = ModelProto(), model_input(proto)
    probe.CopyFrom(proto)
    del probe.graph.output[:]
    sums = {name: f"part_sums/{number}" for number, name in enumerate(parts)}
    for name, output in sums.items():
        flat = f"{output}/flat"
        probe.graph.node.extend(
            [
                helper.make_node("Cast", [name], [f"{output}/float"], to=TensorProto.FLOAT),
                helper.make_node("Flatten", [f"{output}/float"], [flat], axis=1),
                helper.make_node("ReduceL2", [flat], [output], axes=[1])
                if _opset(proto) < _REDUCED_BY_INPUT
                else helper.make_node("ReduceL2", [flat, "part_sums/axis"], [output]),
            ]
        )
        probe.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    probe.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "part_sums/axis"))
    kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    images = np.random.default_rng(0).standard_normal((2, *input_shape(proto))).astype(kind)
    with open_probe(probe, "parts") as runner:
        both = [runner.run({value.name: np.ascontiguousarray(order)}) for order in (images, images[::-1])]
    return [name for name, output in sums.items() if _swapped(*(run[output].reshape(2, -1) for run in both))]


def _swapped(first: NDArray[np.float32], second: NDArray[np.float32]) -> bool:
    return bool(np.allclose(first, second[::-1], rtol=1e-3, atol=1e-6, equal_nan=True))


def _opset(proto: ModelProto) -> int:
    return next((int(e.version) for e in proto.opset_import if e.domain in ("", "ai.onnx")), 0)


def _with_outputs(proto: ModelProto, names: list[str]) -> list[str]:
    return list(dict.fromkeys((*names, *tensor_outputs(proto))))


def gives_rows(proto: ModelProto) -> bool:
    """Whether two images give two rows and three give three, of each of the outputs that do at all.

    Raises EngineError where the model does not run with so many.
    """
    types = element_types(proto)
    names = [name for node in proto.graph.node for name in node.output if types.get(name) in _FAULTY]
    first, second = shapes_at(proto, _with_outputs(proto, names), _BATCHES)
    ends = tensor_outputs(proto)
    leading = [
        {name for name in ends if shapes[name][:1] == (n,)} for shapes, n in zip((first, second), _BATCHES, strict=True)
    ]
    return bool(leading[0]) and leading[0] == leading[1]


def _computes_in(proto: ModelProto, types: dict[str, int]) -> str:
    """The number format of a file without a tensor that can be faulty, and the first node that gives it, for people."""
    for node in proto.graph.node:
        element = types.get(node.output[0], 0)
        if element not in (0, TensorProto.INT64, TensorProto.BOOL) and not node.output[0].startswith("testbed/"):
            kind = helper.tensor_dtype_to_string(element).removeprefix("TensorProto.").lower()
            return f"the model computes in {kind} ({node.op_type} {node.name or node.output[0]!r})"
    return "the model computes in whole numbers alone"


def fixed_batch(proto: ModelProto) -> int:
    """How many images the input declares, 0 where that is open."""
    return int(model_input(proto).type.tensor_type.shape.dim[0].dim_value)


def _of_one_image(proto: ModelProto, names: list[str], types: dict[str, int]) -> dict[str, PerImage]:
    """Tensors of a file of one image at a time that depend on it and whose first dimension is one."""
    live = descendants(proto, model_input(proto).name)
    shapes = measured_shapes(proto, [name for name in names if name in live], 1)
    return {
        name: PerImage(shape[1:], FORMATS[types[name]])
        for name, shape in shapes.items()
        if len(shape) > 1 and shape[0] == 1 and 0 not in shape
    }


def measured_shapes(proto: ModelProto, names: list[str], batch: int) -> dict[str, tuple[int, ...]]:
    """Shapes of these tensors when the graph is run on ``batch`` empty images."""
    return shapes_at(proto, names, (batch,))[0]


def shapes_at(proto: ModelProto, names: list[str], batches: Sequence[int]) -> list[dict[str, tuple[int, ...]]]:
    """`measured_shapes` for each of several batches; what was asked last is known."""
    asked = _asked(skeleton(proto), names)
    key = sha256_bytes(asked.SerializeToString(deterministic=True)), tuple(batches)
    if key not in _last_shapes:
        measured = _measured(proto, asked, names, batches)
        _last_shapes.clear()
        _last_shapes[key] = measured
    return _last_shapes[key]


_last_shapes: dict[tuple[str, tuple[int, ...]], list[dict[str, tuple[int, ...]]]] = {}


def _measured(
    proto: ModelProto, asked: ModelProto, names: list[str], batches: Sequence[int]
) -> list[dict[str, tuple[int, ...]]]:
    try:
        runner = open_skeleton(asked, empty_weights(proto), "shapes")
    except EngineError:  # of an operator that asks for the weights themselves
        whole = ModelProto()
        whole.CopyFrom(proto)
        try:
            runner = open_probe(_asked(whole, names), "shapes")
        except EngineError as error:
            raise EngineError(f"{error}; convert or export the file again, so that ONNX Runtime takes it") from error
    value = model_input(proto)
    shape, dtype = input_shape(proto), helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    with runner:
        outputs = [runner.run({value.name: np.zeros((batch, *shape), dtype)}) for batch in batches]
    return [
        {name: tuple(shapes[f"shape/{number}"].tolist()) for number, name in enumerate(names)} for shapes in outputs
    ]


def _asked(proto: ModelProto, names: list[str]) -> ModelProto:
    """The model, changed to give the shapes of these tensors alone."""
    del proto.graph.output[:]
    for number, name in enumerate(names):
        proto.graph.node.append(helper.make_node("Shape", [name], [f"shape/{number}"]))
        proto.graph.output.append(helper.make_tensor_value_info(f"shape/{number}", TensorProto.INT64, None))
    return proto


def inputs_of(proto: ModelProto) -> list[onnx.ValueInfoProto]:
    """What is to be fed; old files list their weights as inputs, too."""
    stored = {tensor.name for tensor in proto.graph.initializer}
    return [value for value in proto.graph.input if value.name not in stored]


def model_input(proto: ModelProto) -> onnx.ValueInfoProto:
    """The graph's one input. Raises UsageError where there are more, or it is no batch of numbers."""
    inputs = inputs_of(proto)
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise UsageError(
            f"the model has {len(inputs)} inputs ({names}); it must have one, the images: store what the others are fed in"
            " the file, as initializers, or name an output that needs the images alone"
        )
    kind = inputs[0].type.tensor_type
    if len(kind.shape.dim) < 2 or kind.elem_type not in FLOATS:
        raise UsageError(f"the model's input {inputs[0].name!r} is no batch of images; export it with float images")
    return inputs[0]


def input_shape(proto: ModelProto) -> tuple[int, ...]:
    """One image's: as declared or, where the file leaves its size open, as its weights ask for.

    Raises UsageError when neither says, and for one that is no image's.
    """
    shape = _stated_shape(proto)
    if min(shape) < 1 or math.prod(shape) > _LARGEST_IMAGE:
        sizes = ", ".join(map(str, shape))
        raise UsageError(
            f"the model's input {model_input(proto).name!r} declares images of ({sizes}); sizes must be 1 or more, and"
            f" {_LARGEST_IMAGE:,} numbers in all at most: export it again"
        )
    return shape


def _stated_shape(proto: ModelProto) -> tuple[int, ...]:
    dims = tuple(d.dim_value for d in model_input(proto).type.tensor_type.shape.dim[1:])
    if all(dims):
        return dims
    stored = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    conv = next((node for node in proto.graph.node if node.op_type == "Conv" and node.input[1] in stored), None)
    if conv is not None and len(dims) == 3:
        width, channels, *patch = stored[conv.input[1]]
        if dims[1] and dims[2]:
            return channels, dims[1], dims[2]
        tokens = [shape[1] for shape in stored.values() if len(shape) == 3 and shape[0] == 1 and shape[2] == width]
        positions = max(tokens, default=0)  # the others are tokens by themselves
        for patches in (positions - extra for extra in (1, 0, 2)):  # with a class token, without, with two
            if patches > 0 and math.isqrt(patches) ** 2 == patches:
                side = math.isqrt(patches)
                return channels, dims[1] or side * patch[0], dims[2] or side * patch[-1]
    raise UsageError(
        "the model's image size is left open, and its weights do not say it: state it ([model] image_size = 224, or"
        " --image-size 224 of `testbed instrument` and `export`), or export it with a fixed size"
    )


def input_name(model: bytes) -> str:
    """The name of what the model is fed; a twin's ports' inputs follow it."""
    return str(inputs_of(outline(model))[0].name)


def output_name(model: bytes) -> str:
    return str(outline(model).graph.output[0].name)
