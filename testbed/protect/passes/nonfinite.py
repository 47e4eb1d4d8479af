"""Non-finite flags: NaN and infinity in a site raise an alarm, and change nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto
from pydantic import JsonValue

from testbed.core.errors import TestbedError, UsageError
from testbed.core.protected import FLAG
from testbed.instrument.cut.flow import CannotCut
from testbed.protect.checks.alarms import add_alarms
from testbed.protect.checks.bounds import set_bounds
from testbed.protect.checks.relation import Relation, Term
from testbed.protect.checks.sums import Vectors
from testbed.protect.contract import Applied, CalibrationSet
from testbed.protect.graph import GraphEditor
from testbed.protect.passes.range import chosen_sites

_LARGEST = float(np.finfo(np.float32).max)
_ENDS = ("*.mlp.residual", "norm", "head")


@dataclass(frozen=True)
class NonfinitePass:
    """``where``: patterns of sites; by default what a block gives, and the end.

    The sum over a site is held against the largest float32: it is NaN or infinite where any of it is, and where so large
    values were added up that the sum is.
    """

    where: tuple[str, ...] = _ENDS

    name = "nonfinite"
    detects = True
    corrects = False

    def requires(self, graph: GraphEditor) -> None:
        """Raises UsageError where a pattern names no site, or no sum can be taken."""
        if not self._relations(graph)[0]:
            raise UsageError(f"--where {','.join(self.where)} leaves no site whose sum can be taken")

    def planned(self, graph: GraphEditor) -> tuple[list[str], dict[str, str]]:
        """The flagged sites."""
        relations, left_out = self._relations(graph)
        return [relation.name for relation in relations], left_out

    @property
    def settings(self) -> dict[str, JsonValue]:
        """What was asked for."""
        return {"where": list(self.where)}

    def call(self, proto: ModelProto, calibration: CalibrationSet) -> tuple[ModelProto, Applied]:
        """Add a flag to every chosen site."""
        graph = GraphEditor(proto)
        relations, left_out = self._relations(graph)
        groups = add_alarms(graph, self.name, relations)
        flagged, places = set_bounds(graph.finished(), groups, calibration)
        return flagged, Applied(self.name, self.settings, tuple(places), left_out)

    def ensures(self, proto: ModelProto, applied: Applied) -> None:
        """Every group still has its flag."""
        flags = [n for node in proto.graph.node for n in node.output if n.startswith(f"{FLAG}{self.name}.")]
        if not flags:
            raise TestbedError("nonfinite: the file holds no flag")

    def _relations(self, graph: GraphEditor) -> tuple[list[Relation], dict[str, str]]:
        relations, left_out = [], {}
        for site in chosen_sites(list(graph.sites), self.where, _ENDS):
            tensor = graph.sites[site].tensor
            if graph.element(tensor) in (TensorProto.INT8, TensorProto.UINT8):
                left_out[site] = "its numbers are integers, which are all finite"
                continue
            try:
                graph.flow.per_image(tensor)
            except CannotCut as error:
                left_out[site] = str(error)
                continue
            relations.append(_finite(site, tensor))
        return relations, left_out


def _finite(site: str, tensor: str) -> Relation:
    def terms(vectors: Vectors) -> list[Term]:
        return [Term(vectors.total(tensor), 1.0)]

    bound = (-_LARGEST, _LARGEST)
    return Relation(site, "finite", (tensor,), lambda _: None, terms, bound=bound)
