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

from testbed.core.arrays import Float32s, Int64s
from testbed.core.site import Site, SiteTable
from testbed.instrument.sites.named import is_own
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
    (N, H d); proj (N, D).

    turned: of a user's own file k is (H, d, N), as it enters the product. by_rows: these are the shapes; of others only
    what comes after a site can be told from what comes before it.
    """

    site: Mapping[str, Site]
    heads: int
    tokens: int
    head_width: int
    turned: bool = False
    by_rows: bool = True

    def shape(self, kind: str) -> tuple[int, ...]:
        """The site's shape, k's with the tokens before the width."""
        shape = self.site[kind].shape
        return (*shape[:-2], shape[-1], shape[-2]) if self._is_turned(kind) else shape

    def turn(self, kind: str, tensor: Float32s) -> Float32s:
        """A tensor (..., a, b) of the site as the evaluation takes it, or of that as it is stored."""
        return np.ascontiguousarray(tensor.swapaxes(-1, -2)) if self._is_turned(kind) else tensor

    def index_in(self, kind: str, index: Int64s) -> Int64s:
        """Flat indices in `shape` of those in the site's own."""
        return self._turned_index(kind, index, self.site[kind].shape, self.shape(kind))

    def stored_index(self, kind: str, index: Int64s) -> Int64s:
        """Flat indices in the site's own shape of those in `shape`."""
        return self._turned_index(kind, index, self.shape(kind), self.site[kind].shape)

    def _is_turned(self, kind: str) -> bool:
        return self.turned and kind == "k"

    def _turned_index(self, kind: str, index: Int64s, before: tuple[int, ...], after: tuple[int, ...]) -> Int64s:
        if not self._is_turned(kind):
            return index
        *led, row, column = np.unravel_index(index, before)
        return np.ravel_multi_index((*led, column, row), after).astype(np.int64)

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
    if len(whole) != 1 or any(site.format_name != "fp32" or site.joined for site in whole[0].values()):
        return None
    (sites,) = whole
    proto = onnx.load_from_string(plain)
    own = is_own(proto)
    if [value.name for value in proto.graph.output] != [sites["proj"].tensor]:
        return None
    if len(sites["q"].shape) != 3:
        return None if own else AttentionSites(sites, 1, 1, 1, by_rows=False)
    heads, tokens, width = sites["q"].shape
    turned = not own and sites["k"].shape == (heads, width, tokens) != (heads, tokens, width)
    maps = ((heads, tokens, tokens), (2 * heads, tokens, tokens))
    fits = (
        (turned or sites["k"].shape == (heads, tokens, width))
        and sites["v"].shape == (heads, tokens, width)
        and sites["scores"].shape == sites["softmax"].shape
        and sites["scores"].shape in maps
        and sites["context"].shape == (tokens, heads * width)
        and sites["proj"].shape[0] == tokens > 1
    )
    if fits:
        return AttentionSites(sites, heads, tokens, width, turned)
    return None if own else AttentionSites(sites, heads, tokens, width, by_rows=False)


def stages(plain: bytes, sites: AttentionSites) -> dict[str, bytes]:
    """Stage -> a graph of its own, inputs in the order of use; a stage that only works at the file's shapes is left out.

    scores: q (B, H, R, d), k (B, H, C, d), or (B, H, d, C) where it is stored so -> (B, H, R, C). softmax: (B, H, R, N) ->
    the same. heads: softmax (B, H, R, N), v (B, H, N, C) -> (B, H, R, C). proj: context (B, R, H d) -> (B, R, D).
    """
    if not sites.by_rows:
        return {}
    proto = onnx.load_from_string(plain)
    tensor = {kind: site.tensor for kind, site in sites.site.items()}
    keys: Dims = ("b", "h", "d", "n") if sites.turned else ("b", "h", "n", "d")
    maps: Dims = ("b", "h", "r", "n")
    wanted: dict[str, tuple[dict[str, Dims], str, Dims]] = {
        "scores": ({tensor["q"]: ("b", "h", "r", "d"), tensor["k"]: keys}, tensor["scores"], maps),
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
