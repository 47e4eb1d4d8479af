"""ONNX -> ONNX twin: a fault port at every site, fed at run time, one fault per batch row.

The port is a "gated replace" in portable standard ops: where a row's ``fault_site`` is this port's number, the element
``fault_index`` of that row becomes ``fault_value``; every other row goes through untouched. The value is computed by
the
host from the golden one, so one site per inference can be struck; ``fault_live`` returns the value the engine had
there, which
the campaign compares with the golden bit for bit. Select is by Gather, not Where: some Where kernels lose the sign of
zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from testbed.core.errors import TestbedError
from testbed.core.site import SiteTable

SITE, INDEX, VALUE, LIVE = "fault_site", "fault_index", "fault_value", "fault_live"
NO_SITE = -1


@dataclass(frozen=True)
class PortFeed:
    """One entry per batch row. site: port number or NO_SITE; index: flat, canonical; value: what to write there."""

    site: NDArray[np.int64]
    index: NDArray[np.int64]
    value: NDArray[np.float32]

    @classmethod
    def idle(cls, rows: int) -> PortFeed:
        return cls(np.full(rows, NO_SITE, np.int64), np.zeros(rows, np.int64), np.zeros(rows, np.float32))

    def padded(self, rows: int) -> PortFeed:
        """With idle rows at the end."""
        rest = PortFeed.idle(rows - len(self.site))
        return PortFeed(
            np.concatenate([self.site, rest.site]),
            np.concatenate([self.index, rest.index]),
            np.concatenate([self.value, rest.value]),
        )

    def as_inputs(self) -> dict[str, NDArray]:
        """The twin's extra inputs, each (B, 1)."""
        return {SITE: self.site[:, None], INDEX: self.index[:, None], VALUE: self.value[:, None]}


def instrument(plain: bytes, table: SiteTable) -> ModelProto:
    """The twin of ``plain``: same computation, same input and output names, plus ports for the table's activations."""
    proto = onnx.load_from_string(plain)
    graph = proto.graph
    ports = table.ports
    constants: dict[str, NDArray] = {}
    nodes: list[NodeProto] = []
    for node in graph.node:
        struck = [name for name in node.output if name in ports]
        node.output[:] = [f"{name}/live" if name in ports else name for name in node.output]
        nodes.append(node)
        for name in struck:
            nodes.extend(_port(name, ports[name], table[name].shape, constants))
    missing = set(ports) - {name.removesuffix("/port/out") for node in nodes for name in [node.name]}
    if missing:
        raise TestbedError(
            f"the ONNX graph has no tensor named {min(missing)!r}; instrument the file it was listed from"
        )
    current = [f"{name}/port/current" for name in ports]
    nodes.append(helper.make_node("Concat", current, ["fault_live/all"], axis=1))
    nodes.append(helper.make_node("GatherElements", ["fault_live/all", SITE], [LIVE], axis=1))
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    for name, kind in ((SITE, TensorProto.INT64), (INDEX, TensorProto.INT64), (VALUE, TensorProto.FLOAT)):
        graph.input.append(
            helper.make_tensor_value_info(name, kind, [graph.input[0].type.tensor_type.shape.dim[0].dim_param, 1])
        )
    graph.output.append(helper.make_tensor_value_info(LIVE, TensorProto.FLOAT, ["batch", 1]))
    onnx.checker.check_model(proto)
    return proto


def _port(site: str, number: int, shape: Sequence[int], constants: dict[str, NDArray]) -> list[NodeProto]:
    """Nodes from ``site/live`` to ``site``; ``site/port/current`` is the live value at the struck element, (B, 1)."""
    p = f"{site}/port"
    flat, back = _constant(constants, [-1, int(np.prod(shape))]), _constant(constants, [-1, *shape])
    mine = _constant(constants, [number])

    def op(kind: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
        return helper.make_node(kind, inputs, [output], name=output, **attributes)

    return [
        op("Reshape", [f"{site}/live", flat], f"{p}/flat"),
        op("Equal", [SITE, mine], f"{p}/hit"),
        op("Cast", [f"{p}/hit"], f"{p}/gate", to=TensorProto.INT64),
        op("Mul", [INDEX, f"{p}/gate"], f"{p}/index"),  # an idle row's index must be in range everywhere
        op("GatherElements", [f"{p}/flat", f"{p}/index"], f"{p}/current", axis=1),
        op("Concat", [f"{p}/current", VALUE], f"{p}/choice", axis=1),
        op("GatherElements", [f"{p}/choice", f"{p}/gate"], f"{p}/value", axis=1),
        op("ScatterElements", [f"{p}/flat", f"{p}/index", f"{p}/value"], f"{p}/struck", axis=1),
        helper.make_node("Reshape", [f"{p}/struck", back], [site], name=f"{site}/port/out"),
    ]


def _constant(constants: dict[str, NDArray], values: list[int]) -> str:
    name = "port_constant/" + "_".join(map(str, values))
    constants[name] = np.array(values, np.int64)
    return name


def feed_sites(table: SiteTable, sites: Iterable[str]) -> NDArray[np.int64]:
    """Port numbers of site names."""
    ports: Mapping[str, int] = table.ports
    return np.array([ports[name] for name in sites], np.int64)
