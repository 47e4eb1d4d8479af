"""ONNX -> site table: which tensors of a plain ONNX file can be struck, under which names, with which shapes and formats.

In a quantised (Q/DQ) file the stored numbers are the integers: an activation's site is the tensor between QuantizeLinear
and DequantizeLinear, a weight's the integer initializer; scales, zero points and int32 biases are sites of their own.
"""

from __future__ import annotations

import json
import re

import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto

from testbed.core.errors import TestbedError
from testbed.core.files import sha256_bytes
from testbed.core.site import Site, SiteTable
from testbed.instrument.feed import GATED_REPLACE

_BRANCH = r"attn\.(q|k|v|scores|softmax|context|proj|residual)|mlp\.(fc1|gelu|fc2|residual)"
_NAMED = re.compile(rf"^(patch_embed|embed|norm|head|block\.\d+\.(norm1|norm2|{_BRANCH}))$")
_FORMATS: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "uint8",
    TensorProto.INT32: "int32",
}
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_QUANTISED = re.compile(r"^(?P<name>.+?)(_quantized)?(_(?P<part>scale|zero_point))?$")


def deployment_id(plain: bytes) -> str:
    """Names what is deployed: the plain ONNX file's content. Its twin carries the same id."""
    return sha256_bytes(plain)[:16]


def site_table(plain: bytes, target: str, mechanism: str = GATED_REPLACE) -> SiteTable:
    """Sites in execution order, activations first, and how their ports will work.

    Raises TestbedError for a file without recognisable sites.
    """
    proto = onnx.load_from_string(plain)
    activations, weights = _activations(proto), _weights(proto)
    if not activations or not weights:
        raise TestbedError(f"target {target!r}: the ONNX file names no sites; export it with this version of testbed")
    return SiteTable(target, deployment_id(plain), mechanism, (*activations, *weights))


def _activations(proto: ModelProto) -> list[Site]:
    values = _values(proto)
    quantised = {
        node.input[0].removesuffix("_QuantizeLinear_Input"): node.output[0]
        for node in proto.graph.node
        if node.op_type == "QuantizeLinear"
    }
    names = {tensor: name for name, tensor in quantised.items()}
    sites = []
    for node in proto.graph.node:
        for tensor in node.output:
            name = names.get(tensor, tensor)
            shape = _per_image_shape(values.get(tensor))
            if not _NAMED.match(name) or shape is None or (name in quantised and tensor not in names):
                continue
            kind = _FORMATS[values[tensor].type.tensor_type.elem_type]
            sites.append(Site(name, "activation", shape, kind, tensor))
    return sites


def _values(proto: ModelProto) -> dict[str, ValueInfoProto]:
    if any(node.op_type == "QuantizeLinear" for node in proto.graph.node):  # the quantiser leaves its tensors untyped
        proto = onnx.shape_inference.infer_shapes(proto)
    return {value.name: value for value in (*proto.graph.value_info, *proto.graph.output)}


def _per_image_shape(value: ValueInfoProto | None) -> tuple[int, ...] | None:
    """None unless the only symbolic dimension is the leading batch and the format is one that can be struck."""
    if value is None or value.type.tensor_type.elem_type not in _FORMATS:
        return None
    dims = value.type.tensor_type.shape.dim
    if len(dims) < 2 or dims[0].HasField("dim_value") or not all(d.dim_value for d in dims[1:]):
        return None
    return tuple(d.dim_value for d in dims[1:])


def _weights(proto: ModelProto) -> list[Site]:
    props = {p.key: p.value for p in proto.metadata_props}
    transposed = set(json.loads(props.get("testbed.transposed", "[]")))
    quantised = any(node.op_type == "DequantizeLinear" for node in proto.graph.node)
    sites = []
    for tensor in proto.graph.initializer:
        if tensor.data_type not in (_FORMATS if quantised else _FLOATS):
            continue
        name = _human(tensor.name) if quantised else tensor.name
        shape = tuple(tensor.dims)
        turned = name in transposed
        sites.append(
            Site(name, "weight", shape[::-1] if turned else shape, _FORMATS[tensor.data_type], tensor.name, turned)
        )
    return sites


def _human(tensor: str) -> str:
    """``block.0.attn.qkv.weight_quantized`` -> ``block.0.attn.qkv.weight``; ``..._scale`` -> ``....scale``."""
    found = _QUANTISED.match(tensor)
    assert found is not None
    return found["name"] + (f".{found['part']}" if found["part"] else "")
