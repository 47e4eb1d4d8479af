"""ONNX -> ONNX twin: a fault port at every site, fed at run time, one fault of K points per batch row.

Three mechanisms that agree bit for bit:

gated_replace  portable standard ops: where a point's ``fault_site`` is this port's number, the element ``fault_index`` of
               that row becomes ``fault_value``, which the host computed from the golden value. Select is by Gather, not
               Where: some Where kernels lose the sign of zero.
xor            standard ops of opset 26 on the live value's bits: ``((v & and) | or) ^ xor``.
op             the same in one custom operator, testbed.FaultPort (kernels/).

The first two scatter all K points of a row at every port, what is not meant for it as element 0's own value. So that no
two of them write different values to one element, all points of a row must be of one site: see `feed.PortFeed.as_inputs`.

``fault_live`` returns the values the engine had at the struck elements, which the campaign compares with its golden ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from testbed.core.errors import TestbedError, UsageError
from testbed.core.site import Site, SiteTable
from testbed.core.words.nearest import unknown
from testbed.engines.signature import POINTS
from testbed.instrument.ports.feed import GATED_REPLACE, INDEX, MASKS, OP, SITE, XOR, formats, live_output, value_input
from testbed.instrument.shapes import inputs_of
from testbed.instrument.skeleton import skeleton

OP_DOMAIN, OP_TYPE, OP_VERSION = "testbed", "FaultPort", 1
XOR_OPSET = 26  # the first with BitCast
_SAME_UNTIL_XOR = 18  # reductions and splits were written in another way before
ELEMENTS = {
    "fp32": TensorProto.FLOAT,
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int16": TensorProto.INT16,
    "uint16": TensorProto.UINT16,
    "int32": TensorProto.INT32,
}
_NOT_IN_OP = ("int16", "uint16")
_WORDS = {8: TensorProto.UINT8, 16: TensorProto.UINT16, 32: TensorProto.UINT32}


def instrument(plain: bytes, table: SiteTable) -> ModelProto:
    """The twin of ``plain``: same computation, same input and output names, plus ports for the table's activations.

    ``table.mechanism`` says how. Raises TestbedError for a table of another file, UsageError for an unknown mechanism.
    """
    return instrument_graph(onnx.load_from_string(plain), table)


def instrument_graph(proto: ModelProto, table: SiteTable) -> ModelProto:
    """`instrument` of a model that may be lean, which becomes its own twin."""
    graph = proto.graph
    builders: dict[str, Callable[[_Ports, Site, int], list[NodeProto]]] = {
        GATED_REPLACE: _gated_replace,
        XOR: _xor,
        OP: _custom_op,
    }
    if table.mechanism not in builders:
        raise UsageError(unknown("port mechanism", table.mechanism, builders))
    if table.mechanism == OP and (lacking := [name for name in formats(table) if name in _NOT_IN_OP]):
        raise UsageError(f"ports {OP!r} do not strike {lacking[0]} tensors, which this file has; use {GATED_REPLACE!r}")
    build, ports = builders[table.mechanism], _Ports()
    if table.mechanism in (GATED_REPLACE, XOR):
        ports.count_points()
    by_tensor = {site.tensor: site for site in table if site.where == "activation"}
    produced = {name for node in graph.node for name in node.output}
    if missing := sorted(by_tensor.keys() - produced):
        raise TestbedError(f"the ONNX graph has no tensor named {missing[0]!r}; instrument the file it was listed from")
    nodes = ports.shared
    for node in graph.node:
        faulty = [by_tensor[name] for name in node.output if name in by_tensor]
        node.output[:] = [f"{name}/live" if name in by_tensor else name for name in node.output]
        nodes.append(node)
        for site in faulty:
            nodes.extend(build(ports, site, table.ports[site.name]))
    for format_name in formats(table):
        nodes.extend(_live(format_name, [s for s in by_tensor.values() if s.format_name == format_name], table, ports))
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in ports.constants.items())
    _declare(proto, table)
    onnx.checker.check_model(skeleton(proto))
    return proto


@dataclass
class _Ports:
    """Constants that the ports share, and nodes that come before them all."""

    constants: dict[str, NDArray] = field(default_factory=dict)
    shared: list[NodeProto] = field(default_factory=list)

    def constant(self, values: Sequence[int]) -> str:
        name = "port_constant/" + "_".join(map(str, values))
        self.constants[name] = np.array(values, np.int64)
        return name

    def scalar(self, value: int) -> str:
        name = f"port_constant/scalar_{value}"
        self.constants[name] = np.array(value, np.int64)
        return name

    def count_points(self) -> None:
        """Nodes for 0 to K-1, the places of the current values in ``choice``, and K to 2K-1, those of the faulty ones."""
        scalar_0, scalar_1 = self.scalar(0), self.scalar(1)
        self.shared += [
            _op("Shape", [INDEX], "port_points/shape"),
            _op("Gather", ["port_points/shape", scalar_1], "port_points/count", axis=0),
            _op("Range", [scalar_0, "port_points/count", scalar_1], "port_points/closed"),
            _op("Add", ["port_points/closed", "port_points/count"], "port_points/open"),
        ]


def _op(kind: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs, [output], name=output, **attributes)


def _located(ports: _Ports, site: Site, number: int) -> tuple[str, list[NodeProto]]:
    """Nodes that find the struck elements: flat (B, E); hit, index and current (B, K)."""
    p = f"{site.tensor}/port"
    return p, [
        _op("Reshape", [f"{site.tensor}/live", ports.constant([-1, site.elements])], f"{p}/flat"),
        _op("Equal", [SITE, ports.scalar(number)], f"{p}/hit"),
        _op("Where", [f"{p}/hit", INDEX, ports.scalar(0)], f"{p}/index"),  # an idle point's must be in range everywhere
        _op("GatherElements", [f"{p}/flat", f"{p}/index"], f"{p}/current", axis=1),
    ]


def _written(ports: _Ports, site: Site, p: str, value: str) -> list[NodeProto]:
    """Nodes that write ``value`` where a point hits, and give the tensor its name and shape back."""
    return [
        _op("Concat", [f"{p}/current", value], f"{p}/choice", axis=1),  # (B, 2 K)
        _op("Where", [f"{p}/hit", "port_points/open", "port_points/closed"], f"{p}/gate"),
        _op("GatherElements", [f"{p}/choice", f"{p}/gate"], f"{p}/value", axis=1),
        _op("ScatterElements", [f"{p}/flat", f"{p}/index", f"{p}/value"], f"{p}/struck", axis=1),
        helper.make_node(
            "Reshape", [f"{p}/struck", ports.constant([-1, *site.trailing])], [site.tensor], name=f"{p}/out"
        ),
    ]


def _gated_replace(ports: _Ports, site: Site, number: int) -> list[NodeProto]:
    p, nodes = _located(ports, site, number)
    return [*nodes, *_written(ports, site, p, value_input(site.format_name))]


def _xor(ports: _Ports, site: Site, number: int) -> list[NodeProto]:
    p, nodes = _located(ports, site, number)
    word = _WORDS[site.format.bits]
    masks = list(MASKS)
    if word != TensorProto.UINT32:
        nodes += [_op("Cast", [mask], f"{p}/{mask}", to=word) for mask in MASKS]
        masks = [f"{p}/{mask}" for mask in MASKS]
    nodes += [
        _op("BitCast", [f"{p}/current"], f"{p}/bits", to=word),
        _op("BitwiseAnd", [f"{p}/bits", masks[0]], f"{p}/kept"),
        _op("BitwiseOr", [f"{p}/kept", masks[1]], f"{p}/set"),
        _op("BitwiseXor", [f"{p}/set", masks[2]], f"{p}/flipped"),
        _op("BitCast", [f"{p}/flipped"], f"{p}/faulty", to=ELEMENTS[site.format_name]),
    ]
    return [*nodes, *_written(ports, site, p, f"{p}/faulty")]


def _custom_op(ports: _Ports, site: Site, number: int) -> list[NodeProto]:
    p = f"{site.tensor}/port"
    inputs = [f"{site.tensor}/live", SITE, INDEX, *MASKS]
    outputs = [site.tensor, f"{p}/current"]
    if not site.joined:
        return [helper.make_node(OP_TYPE, inputs, outputs, name=f"{p}/out", domain=OP_DOMAIN, port=number)]
    flat, faulty = f"{p}/flat", f"{p}/faulty"
    apart, together = ports.constant([-1, site.elements]), ports.constant([-1, *site.trailing])
    return [  # the operator takes the leading axis for the images
        _op("Reshape", [inputs[0], apart], flat),
        helper.make_node(
            OP_TYPE, [flat, *inputs[1:]], [faulty, outputs[1]], name=f"{p}/out", domain=OP_DOMAIN, port=number
        ),
        _op("Reshape", [faulty, together], site.tensor),
    ]


def _live(format_name: str, sites: list[Site], table: SiteTable, ports: _Ports) -> list[NodeProto]:
    """Nodes that pick, per point, the struck site's current value among all P sites of one format: (B, K)."""
    output = live_output(format_name)
    position = np.zeros(len(table.ports) + 1, np.int64)  # the last one is NO_SITE's
    for row, site in enumerate(sites):
        position[table.ports[site.name]] = row
    name = f"port_constant/{format_name}/position"
    ports.constants[name] = position
    return [
        _op("Concat", [f"{site.tensor}/port/current" for site in sites], f"{output}/in_a_row", axis=1),  # (B, P K)
        _op("Reshape", [f"{output}/in_a_row", ports.constant([0, len(sites), -1])], f"{output}/all"),
        _op("Gather", [name, SITE], f"{output}/position", axis=0),
        _op("Reshape", [f"{output}/position", ports.constant([0, 1, -1])], f"{output}/row"),
        _op("GatherElements", [f"{output}/all", f"{output}/row"], f"{output}/picked", axis=1),
        _op("Reshape", [f"{output}/picked", ports.constant([0, -1])], output),
    ]


def _declare(proto: ModelProto, table: SiteTable) -> None:
    """The twin's extra inputs and outputs, and the operator sets it needs."""
    graph = proto.graph
    batch = inputs_of(proto)[0].type.tensor_type.shape.dim[0].dim_param or "batch"

    def declared(name: str, element: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, element, [batch, POINTS])

    extra = [declared(SITE, TensorProto.INT64), declared(INDEX, TensorProto.INT64)]
    if table.mechanism == GATED_REPLACE:
        extra += [declared(value_input(name), ELEMENTS[name]) for name in formats(table)]
    else:
        extra += [declared(name, TensorProto.UINT32) for name in MASKS]
    graph.input.extend(extra)
    graph.output.extend(declared(live_output(name), ELEMENTS[name]) for name in formats(table))
    if table.mechanism == XOR:
        for entry in proto.opset_import:
            if entry.domain in ("", "ai.onnx"):
                if entry.version < _SAME_UNTIL_XOR:
                    raise UsageError(
                        f"ports {XOR!r} need opset {XOR_OPSET}, in which this file's operators, of opset {entry.version},"
                        f" mean something else; use {GATED_REPLACE!r} or {OP!r}, or export it with opset"
                        f" {_SAME_UNTIL_XOR} or later"
                    )
                entry.version = max(entry.version, XOR_OPSET)
        proto.ir_version = max(proto.ir_version, 11)
    if table.mechanism == OP:
        proto.opset_import.append(helper.make_opsetid(OP_DOMAIN, OP_VERSION))
