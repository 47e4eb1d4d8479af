"""Checksums: sums of every product, layer norm, softmax, residual and activation are held against what they must be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from onnx import ModelProto, NodeProto, TensorProto
from pydantic import JsonValue

from testbed.core.errors import TestbedError, UsageError
from testbed.core.protected import PREFIX
from testbed.instrument.cut.flow import CannotCut
from testbed.protect.checks.activations import ActivationCheck, activation, is_activation
from testbed.protect.checks.alarms import add_alarms
from testbed.protect.checks.bounds import FACTOR, set_bounds
from testbed.protect.checks.invariants import is_residual, layer_norm, residual, rounding, softmax, written_norm
from testbed.protect.checks.products import product
from testbed.protect.checks.relation import ROUNDING, Relation
from testbed.protect.checks.unsigned import unsigned_activations
from testbed.protect.contract import Applied, CalibrationSet
from testbed.protect.graph import GraphEditor
from testbed.protect.passes.range import chosen_sites

_MAKERS: dict[str, Callable[[GraphEditor, NodeProto], Relation]] = {
    "MatMul": product,
    "Gemm": product,
    "Conv": product,
    "LayerNormalization": layer_norm,
    "Softmax": softmax,
}
_ONNX = ("", "ai.onnx")
_NO_SUM = ("Einsum", "Attention", "RMSNormalization", "ConvTranspose", "MatMulInteger", "QLinearMatMul", "QLinearConv")
_ACTIVATION = ".mlp.gelu"
_NOT_CHECKED = "no sum of it is known: put a range guard there, or a duplicate"


@dataclass(frozen=True)
class ChecksumPass:
    """``where``: patterns of sites whose checks are wanted; ``factor``: a threshold over the largest deviation that was seen
    without a fault; ``activations``: computed a second time, or only their sums' range; ``unsigned``: activations of int8
    become uint8, so that ONNX Runtime keeps its products of integers."""

    where: tuple[str, ...] = ("*",)
    factor: float = FACTOR
    activations: ActivationCheck = "recompute"
    unsigned: bool = False

    name = "checksum"
    detects = True
    corrects = False

    def __post_init__(self) -> None:
        if not self.factor >= 1:
            raise UsageError(f"a threshold below what is seen without a fault is an alarm without one: {self.factor:g}")

    def requires(self, graph: GraphEditor) -> None:
        """Raises UsageError where a pattern names no site, or nothing that is left can be checked."""
        if not self._relations(graph)[0]:
            raise UsageError(f"--where {','.join(self.where)} leaves nothing whose sum can be checked")

    def planned(self, graph: GraphEditor) -> tuple[list[str], dict[str, str]]:
        """The checks."""
        relations, left_out = self._relations(graph)
        return [f"{relation.name} ({relation.kind})" for relation in relations], left_out

    @property
    def settings(self) -> dict[str, JsonValue]:
        """What was asked for."""
        chosen: dict[str, JsonValue] = {"unsigned": True} if self.unsigned else {}
        return {"where": list(self.where), "factor": self.factor, "activations": self.activations, **chosen}

    def call(self, proto: ModelProto, calibration: CalibrationSet) -> tuple[ModelProto, Applied]:
        """Add the checks; their bounds are measured."""
        graph = GraphEditor(unsigned_activations(proto) if self.unsigned else proto)
        relations, left_out = self._relations(graph)
        groups = add_alarms(graph, self.name, relations)
        checked, places = set_bounds(graph.finished(), groups, calibration, self.factor)
        return checked, Applied(self.name, self.settings, tuple(places), left_out)

    def ensures(self, proto: ModelProto, applied: Applied) -> None:
        """Every check is still there. Raises TestbedError where a later step took one away."""
        there = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
        checks = sum(dims[0] for name, dims in there.items() if _is_bound(name, self.name))
        if checks != len(applied.places):
            raise TestbedError(f"checksum: {len(applied.places)} checks were added, and the file holds {checks}")

    def _relations(self, graph: GraphEditor) -> tuple[list[Relation], dict[str, str]]:
        wanted = set(chosen_sites(list(graph.sites), self.where))
        relations, failed = [], {}
        for node in graph.flow.nodes:
            if node.output and node.output[0].startswith(PREFIX):
                continue
            if node.output[0] in graph.flow.live and (node.domain not in _ONNX or node.op_type in _NO_SUM):
                failed[graph.named(node.output[0])] = f"no sum of {node.op_type} is known"
            try:
                relations += [_seeing(graph, relation) for relation in _of_node(graph, node, self.activations)]
            except CannotCut as error:
                failed[graph.named(node.output[0])] = str(error)
        relations += _activations(graph, set(graph.sites) - _covered(graph, relations))
        is_all = self.where == ChecksumPass.where  # what has no name of ours, too
        kept = relations if is_all else [relation for relation in relations if _covered(graph, [relation]) & wanted]
        missing = {site: failed.get(site, _NOT_CHECKED) for site in wanted - _covered(graph, kept)}
        operators = failed if is_all else {}
        return kept, {site: missing[site] for site in graph.sites if site in missing} | {
            name: why for name, why in operators.items() if name not in graph.sites
        }


def _of_node(graph: GraphEditor, node: NodeProto, activations: ActivationCheck) -> Iterator[Relation]:
    if node.output[0] not in graph.flow.live:
        return
    if node.domain in _ONNX and node.op_type in _MAKERS:
        yield _MAKERS[node.op_type](graph, node)
    elif is_activation(graph, node):
        yield activation(graph, node, activations)
    elif node.output[0] in graph.written_norms:
        yield written_norm(graph, graph.written_norms[node.output[0]])
    elif is_residual(graph, node):
        yield residual(graph, node)
    elif node.op_type == "QuantizeLinear" and node.output[0] in graph.human:
        yield rounding(graph, node)


def _activations(graph: GraphEditor, sites: set[str]) -> list[Relation]:
    """Ranges of activation functions that cannot be computed a second time, as of a gate."""
    relations = []
    for site in sorted(sites):
        node = graph.producer(graph.sites[site].tensor)
        if site.endswith(_ACTIVATION) and node is not None:
            relations.append(_seeing(graph, activation(graph, node, "range")))
    return [relation for relation in relations if _covered(graph, [relation])]


def _seeing(graph: GraphEditor, relation: Relation) -> Relation:
    """The check, covering those tensors only in which it sees a fault.

    What one integer of 8 bits can change is less than the rounding of all others in a sum: only its own check sees it.
    """
    if relation.kind == ROUNDING:
        return relation
    named, integers = set(graph.sites), (TensorProto.INT8, TensorProto.UINT8)
    floats = [tensor for tensor in relation.covers if graph.element(tensor) not in integers]
    return replace(relation, covers=tuple(t for t in floats if t in graph.human or t not in named))


def _covered(graph: GraphEditor, relations: Iterable[Relation]) -> set[str]:
    """Human names of the sites in which a fault is seen."""
    return {graph.human[tensor] for relation in relations for tensor in relation.covers if tensor in graph.human}


def _is_bound(name: str, step: str) -> bool:
    return name.startswith(f"{PREFIX}{step}.") and name.endswith(".high")
