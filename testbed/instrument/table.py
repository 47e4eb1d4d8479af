"""ONNX -> site table: which tensors of a plain ONNX file can be struck, under which names, with which shapes."""

from __future__ import annotations

import json
import re

import onnx
from onnx import ModelProto, TensorProto

from testbed.core.errors import TestbedError
from testbed.core.files import sha256_bytes
from testbed.core.site import Site, SiteTable

MECHANISM = "gated_replace"
_BRANCH = r"attn\.(q|k|v|scores|softmax|context|proj|residual)|mlp\.(fc1|gelu|fc2|residual)"
_NAMED = re.compile(rf"^(patch_embed|embed|norm|head|block\.\d+\.(norm1|norm2|{_BRANCH}))$")
_FORMATS = {TensorProto.FLOAT: "fp32"}


def deployment_id(plain: bytes) -> str:
    """Names what is deployed: the plain ONNX file's content. Its twin carries the same id."""
    return sha256_bytes(plain)[:16]


def site_table(plain: bytes, target: str) -> SiteTable:
    """Sites in execution order, activations first. Raises TestbedError for a file without recognisable sites."""
    proto = onnx.load_from_string(plain)
    shapes = _activation_shapes(proto)
    produced = [name for node in proto.graph.node for name in node.output]
    activations = [
        Site(name, "activation", shapes[name], tensor=name)
        for name in produced
        if _NAMED.match(name) and name in shapes
    ]
    weights = _weights(proto)
    if not activations or not weights:
        raise TestbedError(f"target {target!r}: the ONNX file names no sites; export it with this version of testbed")
    return SiteTable(target, deployment_id(plain), MECHANISM, (*activations, *weights))


def _activation_shapes(proto: ModelProto) -> dict[str, tuple[int, ...]]:
    """Per-image shapes of float tensors whose only symbolic dimension is the leading batch."""
    shapes = {}
    for value in (*proto.graph.value_info, *proto.graph.output):
        kind = value.type.tensor_type
        dims = kind.shape.dim
        if kind.elem_type in _FORMATS and len(dims) > 1 and dims[0].dim_param and all(d.dim_value for d in dims[1:]):
            shapes[value.name] = tuple(d.dim_value for d in dims[1:])
    return shapes


def _weights(proto: ModelProto) -> list[Site]:
    props = {p.key: p.value for p in proto.metadata_props}
    transposed = set(json.loads(props.get("testbed.transposed", "[]")))
    sites = []
    for tensor in proto.graph.initializer:
        if tensor.data_type in _FORMATS:
            shape = tuple(tensor.dims)
            flip = tensor.name in transposed
            sites.append(
                Site(tensor.name, "weight", shape[::-1] if flip else shape, tensor=tensor.name, transposed=flip)
            )
    return sites
