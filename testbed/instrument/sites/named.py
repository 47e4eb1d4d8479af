"""Sites of our own exports: the file's tensors carry the names; those of checks that protect it among them.

In a quantised (Q/DQ) file the stored numbers are the integers: an activation's site is the tensor between QuantizeLinear
and DequantizeLinear, a weight's the integer initializer; scales, zero points and int32 biases are sites of their own.
"""

from __future__ import annotations

import re

import onnx
from onnx import ModelProto, ValueInfoProto

from testbed.core.errors import TestbedError
from testbed.core.folder.parsing import json_value
from testbed.core.protected import PREFIX
from testbed.core.site import Site
from testbed.export.layout import TRANSPOSED
from testbed.instrument.shapes import FLOATS, FORMATS

_BRANCH = r"attn\.(q|k|v|scores|softmax|context|proj|scaled|residual)|mlp\.(fc1|gate|gelu|gated|fc2|scaled|residual)"
_NAMED = re.compile(rf"^(patch_embed|embed|norm|head(_cls|_dist)?|block\.\d+\.(norm1|norm2|{_BRANCH}))$")
_CHECK = re.compile(rf"^{re.escape(PREFIX)}(?!.*_(Q|Deq)uantizeLinear_)")
_QUANTISED = re.compile(r"^(?P<name>.+?)(_quantized)?(_(?P<part>scale|zero_point))?$")


def is_own(proto: ModelProto) -> bool:
    """Whether the file says that this project exported it."""
    return any(entry.key == TRANSPOSED for entry in proto.metadata_props)


def named_sites(proto: ModelProto) -> tuple[Site, ...]:
    """Activations in execution order, then weights; nothing where either is lacking."""
    activations, weights = _activations(proto), _weights(proto)
    return (*activations, *weights) if activations and weights else ()


def _activations(proto: ModelProto) -> list[Site]:
    values = _values(proto)
    quantised = {
        node.input[0].removesuffix("_QuantizeLinear_Input"): node.output[0]
        for node in proto.graph.node
        if node.op_type == "QuantizeLinear" and node.output[0].startswith(PREFIX) == node.input[0].startswith(PREFIX)
    }
    names = {tensor: name for name, tensor in quantised.items()}
    sites = []
    for node in proto.graph.node:
        for tensor in node.output:
            name = names.get(tensor, tensor)
            shape = _per_image_shape(values.get(tensor))
            if (
                not (_NAMED.match(name) or _CHECK.match(name))
                or shape is None
                or (name in quantised and tensor not in names)
            ):
                continue
            kind = FORMATS[values[tensor].type.tensor_type.elem_type]
            sites.append(Site(name, "activation", shape, kind, tensor))
    return sites


def _values(proto: ModelProto) -> dict[str, ValueInfoProto]:
    if any(node.op_type == "QuantizeLinear" for node in proto.graph.node):  # the quantiser leaves its tensors untyped
        proto = onnx.shape_inference.infer_shapes(proto)
    return {value.name: value for value in (*proto.graph.value_info, *proto.graph.output)}


def _per_image_shape(value: ValueInfoProto | None) -> tuple[int, ...] | None:
    """None unless the only symbolic dimension is the leading batch and the format is one that can be struck."""
    if value is None or value.type.tensor_type.elem_type not in FORMATS:
        return None
    dims = value.type.tensor_type.shape.dim
    if len(dims) < 2 or dims[0].HasField("dim_value") or not all(d.dim_value for d in dims[1:]):
        return None
    return tuple(d.dim_value for d in dims[1:])


def _weights(proto: ModelProto) -> list[Site]:
    transposed = _transposed(proto)
    quantised = any(node.op_type == "DequantizeLinear" for node in proto.graph.node)
    sites = []
    for tensor in proto.graph.initializer:
        if tensor.data_type not in (FORMATS if quantised else FLOATS):
            continue
        name = _human(tensor.name) if quantised else tensor.name
        shape = tuple(tensor.dims)
        turned = name in transposed
        sites.append(
            Site(name, "weight", shape[::-1] if turned else shape, FORMATS[tensor.data_type], tensor.name, turned)
        )
    return sites


def _transposed(proto: ModelProto) -> set[str]:
    """Weights that are stored the other way round, as the export says. Raises TestbedError where that is damaged."""
    props = {p.key: p.value for p in proto.metadata_props}
    try:
        names = json_value(props.get(TRANSPOSED, "[]"))
    except ValueError as error:
        raise TestbedError(
            f"the ONNX file's list of transposed weights is damaged ({error}); export it again"
        ) from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TestbedError("the ONNX file's list of transposed weights is damaged; export it again")
    return set(names)


def _human(tensor: str) -> str:
    """``block.0.attn.qkv.weight_quantized`` -> ``block.0.attn.qkv.weight``; ``..._scale`` -> ``....scale``."""
    match = _QUANTISED.match(tensor)
    if match is None:  # of more lines than one
        return tensor
    return match["name"] + (f".{match['part']}" if match["part"] else "")
