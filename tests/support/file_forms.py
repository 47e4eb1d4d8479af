"""One ViT in every form in which a file for deployment may come, made from a plain export by edits of its graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from testbed.compat.exporters import quiet
from tests.support.libraries import imported

Feed = Callable[[NDArray], NDArray]
"""What the file is fed in place of float32 images (B, C, H, W)."""


@dataclass(frozen=True)
class FileForm:
    """``make``: the file's model from the plain one, whose output is "logits". pixels: it takes numbers from 0 to 255.

    ``change``: what is said of it; "" where nothing is. ``dtype`` is that of its sites.
    """

    make: Callable[[ModelProto], ModelProto | None]
    change: str = ""
    feed: Feed = lambda images: images
    dtype: str = "fp32"
    pixels: bool = False


def image_name(proto: ModelProto) -> str:
    return str(proto.graph.input[0].name)


def put_first(proto: ModelProto, *nodes: NodeProto) -> None:
    """Nodes that make what the plain model's input was, whose name they give."""
    for position, node in enumerate(nodes):
        proto.graph.node.insert(position, node)


def stored(proto: ModelProto, **arrays: NDArray) -> None:
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())


def number(value: float) -> NDArray[np.float32]:
    return np.array(value, np.float32)


def sizes(proto: ModelProto) -> list[int]:
    """Channels, height, width."""
    return [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim[1:]]


def takes(proto: ModelProto, name: str, element: int, shape: list[Any]) -> None:
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info(name, element, shape))


def gives(proto: ModelProto, name: str, shape: list[Any] | None = None, element: int = TensorProto.FLOAT) -> None:
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info(name, element, shape))


# ---- inputs


def _in_half(proto: ModelProto) -> ModelProto:
    with quiet():
        half: ModelProto = imported("onnxruntime.transformers.float16").convert_float_to_float16(
            proto, keep_io_types=False
        )
    return half


def _channels_last(proto: ModelProto) -> None:
    name, (channels, height, width) = image_name(proto), sizes(proto)
    takes(proto, "nhwc", TensorProto.FLOAT, ["b", height, width, channels])
    put_first(proto, helper.make_node("Transpose", ["nhwc"], [name], perm=[0, 3, 1, 2]))


def _normalised(proto: ModelProto, source: str) -> list[NodeProto]:
    """Nodes from pixels to what the model was trained on: (pixel / 255 - 0.3053) / 0.376."""
    stored(proto, scale=number(255), mean=number(0.3053), std=number(0.376))
    return [
        helper.make_node("Div", [source, "scale"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], [image_name(proto)]),
    ]


def _bytes(proto: ModelProto, element: int = TensorProto.UINT8) -> None:
    nodes = _normalised(proto, "float pixels")
    takes(proto, "bytes", element, ["b", *sizes(proto)])
    put_first(proto, helper.make_node("Cast", ["bytes"], ["float pixels"], to=TensorProto.FLOAT), *nodes)


def _bytes_channels_last(proto: ModelProto) -> None:
    _bytes(proto)
    (channels, height, width) = sizes(proto)
    takes(proto, "camera", TensorProto.UINT8, ["b", height, width, channels])
    put_first(proto, helper.make_node("Transpose", ["camera"], ["bytes"], perm=[0, 3, 1, 2]))


def _quantised_input(proto: ModelProto) -> None:
    name, shape = image_name(proto), sizes(proto)
    stored(proto, step=number(1 / 16), zero=np.array(128, np.uint8))
    takes(proto, "quantised", TensorProto.UINT8, ["b", *shape])
    put_first(proto, helper.make_node("DequantizeLinear", ["quantised", "step", "zero"], [name]))


def _quantise(images: NDArray) -> NDArray:
    return np.clip(np.rint(images * 16) + 128, 0, 255).astype(np.uint8)


def _odd_names(proto: ModelProto) -> None:
    """Spaces, slashes and colons; nodes that all have one name; an optional operand that is left out."""
    graph, new = proto.graph, {"": "", "logits": "log its:0", image_name(proto): "pixel values/:0"}
    for tensor in graph.initializer:
        tensor.name = new.setdefault(tensor.name, f"weights of/{tensor.name} \u00fc:0")
    for node in graph.node:
        node.input[:] = [new.setdefault(name, f"a b/{name}:0") for name in node.input]
        node.output[:] = [new.setdefault(name, f"a b/{name}:0") for name in node.output]
        node.name = "node"
        if node.op_type == "LayerNormalization":
            node.output.extend(["", ""])
    graph.input[0].name, graph.output[0].name = new[graph.input[0].name], "log its:0"
    del graph.value_info[:]


def _unused_input(proto: ModelProto) -> None:
    proto.graph.input.append(helper.make_tensor_value_info("labels", TensorProto.INT64, ["b"]))


# ---- outputs


def _appended(proto: ModelProto, node: NodeProto, shape: list[Any], element: int = TensorProto.FLOAT) -> None:
    proto.graph.node.append(node)
    gives(proto, node.output[0], shape, element)


def _with_hidden_states(proto: ModelProto) -> None:
    """As transformers writes them, before the logits."""
    hidden = [node.output[0] for node in proto.graph.node if node.op_type == "Add"][:3]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in hidden]
    logits = type(values[0]).FromString(proto.graph.output[0].SerializeToString())
    del proto.graph.output[:]
    proto.graph.output.extend([*values, logits])


def _two_heads(proto: ModelProto) -> None:
    """As a distilled DeiT gives them: their mean, called logits, and each by itself."""
    stored(proto, gain=number(0.5))
    proto.graph.node.extend(
        [
            helper.make_node("Mul", ["logits", "gain"], ["cls_logits"]),
            helper.make_node("Identity", ["logits"], ["distillation_logits"]),
        ]
    )
    shape = [dim.dim_param or dim.dim_value for dim in proto.graph.output[0].type.tensor_type.shape.dim]
    for name in ("cls_logits", "distillation_logits"):
        proto.graph.output.insert(0, helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


def _of_rank(*shape: int) -> Callable[[ModelProto], None]:
    def make(proto: ModelProto) -> None:
        stored(proto, shape=np.array([-1, *shape]))
        _appended(proto, helper.make_node("Reshape", ["logits", "shape"], ["shaped"]), ["b", *shape])

    return make


def _argmax(proto: ModelProto) -> None:
    _appended(proto, helper.make_node("ArgMax", ["logits"], ["class"], axis=-1, keepdims=0), ["b"], TensorProto.INT64)


# ---- graphs


def _functions(proto: ModelProto) -> None:
    """Additions as calls of a function that is written for an older opset."""
    body = [helper.make_node("Add", ["a", "b"], ["c"])]
    sum_of = helper.make_function("some.one", "SumOf", ["a", "b"], ["c"], body, [helper.make_opsetid("", 15)])
    for node in proto.graph.node:
        if node.op_type == "Add":
            node.op_type, node.domain = "SumOf", "some.one"
    proto.functions.append(sum_of)
    proto.opset_import.append(helper.make_opsetid("some.one", 1))


def _weights_as_inputs(proto: ModelProto) -> None:
    for tensor in proto.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        proto.graph.input.append(value)


def _weights_as_constants(proto: ModelProto) -> None:
    graph = proto.graph
    for tensor in list(graph.initializer):
        put_first(proto, helper.make_node("Constant", [], [tensor.name], value=tensor))
    del graph.initializer[:]


FORMS: dict[str, FileForm] = {
    "fp16 throughout": FileForm(_in_half, "it takes float16 images", lambda x: x.astype(np.float16), "fp16"),
    "channels last": FileForm(_channels_last, "channels last; they are turned", lambda x: x.transpose(0, 2, 3, 1)),
    "bytes": FileForm(_bytes, "it takes uint8 pixels", lambda x: x.astype(np.uint8), pixels=True),
    "int32 pixels": FileForm(
        lambda proto: _bytes(proto, TensorProto.INT32),
        "it takes int32 pixels",
        lambda x: x.astype(np.int32),
        pixels=True,
    ),
    "bytes, channels last": FileForm(
        _bytes_channels_last, "it takes uint8 pixels", lambda x: x.transpose(0, 2, 3, 1).astype(np.uint8), pixels=True
    ),
    "quantised images": FileForm(_quantised_input, "it takes images quantised to uint8", _quantise),
    "odd names": FileForm(_odd_names, "names that several nodes have (1) are dropped"),
    "an unused input": FileForm(_unused_input, "its inputs labels, which nothing takes, are dropped"),
    "functions": FileForm(_functions, "its functions are inlined"),
    "weights listed as inputs": FileForm(_weights_as_inputs),
    "weights as constants": FileForm(_weights_as_constants, "weights written as Constant nodes are stored as weights"),
}
"""Forms that differ in what a file is fed, or in how its graph is written."""

ENDINGS: dict[str, FileForm] = {
    "hidden states": FileForm(_with_hidden_states, "logits is judged, the only one of 10 classes"),
    "two heads": FileForm(_two_heads, "logits is judged, by its name, of 3 of 10 classes"),
    "a sequence of one": FileForm(_of_rank(1, 10), "its output (B, 1, 10) is flattened to (B, 10)"),
    "an image of one pixel": FileForm(_of_rank(10, 1, 1), "its output (B, 10, 1, 1) is flattened to (B, 10)"),
    "a class number": FileForm(_argmax, "it ends in ArgMax, which is cut"),
}
"""Forms that differ in what a file gives."""


def as_bfloat16(proto: ModelProto) -> ModelProto:
    """All its float numbers in bfloat16."""
    half = ModelProto()
    half.CopyFrom(proto)
    tensors = [*half.graph.initializer, *(a.t for node in half.graph.node for a in node.attribute if a.HasField("t"))]
    for tensor in tensors:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16)
            tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.BFLOAT16, array.shape, array.tobytes(), True))
    for node in half.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.BFLOAT16
    for value in (*half.graph.input, *half.graph.output):
        value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    del half.graph.value_info[:]
    return half
