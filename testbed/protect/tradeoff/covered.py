"""Sites whose faults a place covers: tensors by their names, and weights by the tensors that first take them on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import ModelProto

from testbed.campaign.files import Files
from testbed.core.folder.parsing import json_value
from testbed.core.protected import PROTECTION
from testbed.core.site import SiteTable
from testbed.protect.paired.sides import PairedSide

_MODEL = Files("model")


@dataclass(frozen=True)
class PlacedPass:
    """A pass as a protected file tells of it. covers: of each of its places, the sites."""

    name: str
    covers: tuple[frozenset[str], ...]


def placed_passes(side: PairedSide) -> tuple[PlacedPass, ...] | None:
    """What the deployed file of a protected campaign says of its places; None where another tool wrote it otherwise."""
    side.folder.verify_file(_MODEL.plain)
    proto = onnx.load(str(side.folder / _MODEL.plain), load_external_data=False)
    (text,) = [entry.value for entry in proto.metadata_props if entry.key == PROTECTION]
    written = json_value(text)
    if not isinstance(written, list) or not all(isinstance(entry, dict) and "places" in entry for entry in written):
        return None
    return tuple(
        PlacedPass(str(entry["pass"]), tuple(frozenset(map(str, spot["covers"])) for spot in entry["places"]))
        for entry in written
    )


@dataclass(frozen=True, eq=False)
class WeightReach:
    """Weight site -> the activation sites in which a fault of it is first seen."""

    first_sites: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, side: PairedSide) -> WeightReach:
        """Follow the weights of the file that a plain campaign ran."""
        for file in (_MODEL.plain, _MODEL.sites):
            side.folder.verify_file(file)
        proto = onnx.load(str(side.folder / _MODEL.plain), load_external_data=False)
        return cls(first_sites(proto, SiteTable.load(side.folder / _MODEL.sites)))

    def covered(self, places: Iterable[Collection[str]]) -> frozenset[str]:
        """The sites that some place covers. A weight is covered by a place that covers all sites which first take it on.
        places: the activation sites of each."""
        sites: set[str] = set()
        for covers in places:
            sites |= set(covers)
            sites |= {weight for weight, first in self.first_sites.items() if first and first <= set(covers)}
        return frozenset(sites)


def first_sites(proto: ModelProto, table: SiteTable) -> dict[str, frozenset[str]]:
    """Weight site -> names of the activation sites that are met first on every way from it through the graph."""
    named = {site.tensor: site.name for site in table if site.where == "activation"}
    takers: dict[str, list[Sequence[str]]] = {}
    for node in proto.graph.node:
        for tensor in node.input:
            takers.setdefault(tensor, []).append(node.output)
    return {site.name: frozenset(_met(site.tensor, takers, named)) for site in table if site.where == "weight"}


def _met(tensor: str, takers: Mapping[str, list[Sequence[str]]], named: Mapping[str, str]) -> set[str]:
    met, ahead, seen = set(), [tensor], {tensor}
    while ahead:
        for outputs in takers.get(ahead.pop(), []):
            for output in outputs:
                if output in named:
                    met.add(named[output])
                elif output not in seen:
                    seen.add(output)
                    ahead.append(output)
    return met
