"""The parts of an attention module that a fault is followed through, cut out of its plain ONNX file.

The module's seven sites split it into four stages: q, k -> scores -> softmax; softmax, v -> heads; context -> proj. A
stage has no dimension of its own left in it, so it can be run for a few rows (or columns) of one head.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from testbed.core.site import Site, SiteTable
from testbed.instrument.sites.pattern_graph import LAYOUT
from testbed.instrument.slicing import backward_slice, descendants

KINDS = ("q", "k", "v", "scores", "softmax", "context", "proj")
_SITE = re.compile(r"^(?P<module>.*)\.(?P<kind>q|k|v|scores|softmax|context|proj)$")
# Give every element from its own row and column, whatever the shape; shapes written into the file would not.
_SHAPELESS = frozenset(("MatMul", "Gemm", "Transpose", "Mul", "Div", "Add", "Softmax", "Identity", "Cast", "Constant"))
Dims = Sequence[int | str]


@dataclass(frozen=True)
class AttentionSites:
    """Sites by kind: q, k, v (H, N, d); scores, softmax (H, N, N) or, of differential attention, (2H, N, N); context
    (N, H d); proj (N, D)."""

    site: Mapping[str, Site]
    heads: int
    tokens: int
    head_width: int

    def kind_of_port(self, table: SiteTable) -> NDArray[np.int64]:
        """(ports,) number in KINDS of each of the table's ports; -1 for other sites."""
        kinds = {site.name: number for number, site in enumerate(self.site[kind] for kind in KINDS)}
        return np.array([kinds.get(name, -1) for name in table.ports], np.int64)


def attention_sites(table: SiteTable, plain: bytes) -> AttentionSites | None:
    """The sites of a target that is one attention module in fp32; None for any other target."""
    modules: dict[str, dict[str, Site]] = {}
    for site in table:
        match = _SITE.match(site.name)
        if site.where == "activation" and match:
            modules.setdefault(match["module"], {})[match["kind"]] = site
    whole = [sites for sites in modules.values() if len(sites) == len(KINDS)]
    if len(whole) != 1 or any(site.format_name != "fp32" for site in whole[0].values()):
        return None
    (sites,) = whole
    outputs = onnx.load_from_string(plain).graph.output
    if [value.name for value in outputs] != [sites["proj"].tensor] or len(sites["q"].shape) != 3:
        return None
    heads, tokens, width = sites["q"].shape
    maps = ((heads, tokens, tokens), (2 * heads, tokens, tokens))
    fits = (
        sites["k"].shape == sites["v"].shape == (heads, tokens, width)
        and sites["scores"].shape == sites["softmax"].shape
        and sites["scores"].shape in maps
        and sites["context"].shape == (tokens, heads * width)
        and sites["proj"].shape[0] == tokens > 1
    )
    return AttentionSites(sites, heads, tokens, width) if fits else None


def stages(plain: bytes, sites: AttentionSites) -> dict[str, bytes]:
    """Stage -> a graph of its own, inputs in the order of use; a stage that only works at the file's shapes is left out.

    scores: q (B, H, R, d), k (B, H, C, d) -> (B, H, R, C). softmax: (B, H, R, N) -> the same. heads: softmax
    (B, H, R, N), v (B, H, N, C) -> (B, H, R, C). proj: context (B, R, H d) -> (B, R, D).
    """
    proto = onnx.load_from_string(plain)
    tensor = {kind: site.tensor for kind, site in sites.site.items()}
    maps: Dims = ("b", "h", "r", "n")
    wanted: dict[str, tuple[dict[str, Dims], str, Dims]] = {
        "scores": ({tensor["q"]: ("b", "h", "r", "d"), tensor["k"]: ("b", "h", "n", "d")}, tensor["scores"], maps),
        "softmax": ({tensor["scores"]: maps}, tensor["softmax"], maps),
        "heads": (
            {tensor["softmax"]: maps, tensor["v"]: ("b", "h", "n", "c")},
            _product(proto, tensor["context"]),
            ("b", "h", "r", "c"),
        ),
        "proj": (
            {tensor["context"]: ("b", "r", sites.site["context"].shape[1])},
            tensor["proj"],
            ("b", "r", sites.site["proj"].shape[1]),
        ),
    }
    graphs = {}
    for name, (inputs, output, shape) in wanted.items():
        stage = cut(proto, inputs, {output: shape})
        operators = {node.op_type for node in stage.graph.node}
        if operators <= _SHAPELESS and [value.name for value in stage.graph.input] == list(inputs):
            graphs[name] = stage.SerializeToString()
    return graphs


def suffix(plain: bytes, sites: AttentionSites, kind: str) -> bytes:
    """The graph from the tensor of this kind on, at the file's own shapes; what else it needs are inputs by their own
    names."""
    proto = onnx.load_from_string(plain)
    faulty = sites.site[kind].tensor
    changed = descendants(proto, faulty)
    inputs: dict[str, Dims] = {
        site.tensor: ("batch", *site.shape) for site in sites.site.values() if site.tensor not in changed
    }
    output = sites.site["proj"]
    return cut(proto, inputs, {output.tensor: ("batch", *output.shape)}).SerializeToString()


def projection_weight(plain: bytes, sites: AttentionSites) -> NDArray[np.float32] | None:
    """(H d, D) what the context is multiplied by; None where that is not one stored matrix."""
    graph = onnx.load_from_string(plain).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    context = sites.site["context"].tensor
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[0] == context and node.input[1] in stored:
            return np.ascontiguousarray(numpy_helper.to_array(stored[node.input[1]]))
    return None


def cut(proto: ModelProto, inputs: Mapping[str, Dims], outputs: Mapping[str, Dims]) -> ModelProto:
    """The nodes between; of ``inputs``, those that are needed, and any input of the graph itself that is."""
    nodes, needed = backward_slice(proto, outputs, given=inputs)
    graph = proto.graph
    given = [_declared(name, shape) for name, shape in inputs.items() if name in needed]
    given += [value for value in graph.input if value.name in needed]
    part = helper.make_graph(
        nodes,
        "part",
        given,
        [_declared(name, shape) for name, shape in outputs.items()],
        [tensor for tensor in graph.initializer if tensor.name in needed],
    )
    return helper.make_model(part, opset_imports=proto.opset_import, ir_version=proto.ir_version)


def _product(proto: ModelProto, context: str) -> str:
    """The heads' outputs, before they are laid side by side as the context."""
    producer = {name: node for node in proto.graph.node for name in node.output}
    while producer[context].op_type in LAYOUT:
        context = producer[context].input[0]
    return context


def _declared(name: str, shape: Dims) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))
