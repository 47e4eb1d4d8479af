"""Canaries in the copies of a vote: whichever of the three is wrong, what goes on has to keep every bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import ModelProto

from testbed.core.arrays import Float32s
from testbed.core.errors import GateFailed
from testbed.core.protected import PREFIX
from testbed.core.site import SiteTable
from testbed.protect.canaries.loud import LOUD, LoudFault, in_rows, open_canary_twin
from testbed.protect.contract import Applied, ProtectedPlace

_STEP = f"{PREFIX}duplicate"
_QUIET = {"fp32": 0x40A00000, "fp16": 0x4500, "bf16": 0x40A0}  # 5, which nothing but a comparison would notice


@dataclass(frozen=True)
class VoteFault:
    """A fault in one of the three copies of a part. end: what that copy gives; voted: what goes on; both tensors."""

    spot: ProtectedPlace
    copy: int
    end: str
    voted: str
    fault: LoudFault


def vote_faults(table: SiteTable, applied: Sequence[Applied]) -> list[VoteFault]:
    """Loud and quiet values in the first and in the last site of each part, in all three of its copies."""
    sites = {site.name: site for site in table if site.where == "activation"}
    tensors = {site.tensor: site for site in sites.values()}
    faults = []
    for spot in (spot for done in applied for spot in done.places if spot.kind == "vote"):
        first, last = (sites[name].tensor for name in (spot.covers[0], spot.covers[-1]))
        for copy in range(3):
            prefix = f"{_STEP}.{copy}.{spot.name}." if copy else ""
            for tensor in dict.fromkeys((first, last)):
                site = tensors[f"{prefix}{tensor}"]
                quiet = [_QUIET[site.format_name]] if site.format_name in _QUIET else []
                for word in (*LOUD[site.format_name], *quiet):
                    fault = LoudFault(site, word)
                    faults.append(VoteFault(spot, copy, f"{prefix}{last}", f"{_STEP}.{spot.name}.voted", fault))
    return faults


def fly_in_copies(
    proto: ModelProto, table: SiteTable, faults: Sequence[VoteFault], image: Float32s, engine: str, precision: str
) -> None:
    """Put each fault into its copy, which has to give something else, while neither vote nor outputs change a bit.

    image: (1, C, S, S). Raises GateFailed naming the part and the copy.
    """
    if not faults:
        return
    watched = [tensor for fault in faults for tensor in (fault.end, fault.voted)]
    output = proto.graph.output[0].name
    with open_canary_twin(proto, table, [f.fault.site for f in faults], watched, image, engine, precision) as twin:
        golden = twin.run()
        changed = set()
        for start, some in in_rows([fault.fault for fault in faults]):
            results = twin.run(some)
            for row, fault in enumerate(faults[start : start + len(some)]):
                same = {
                    name: results[name][row].tobytes() == golden[name][row].tobytes()
                    for name in (fault.end, fault.voted, output)
                }
                if not same[fault.voted] or not same[output]:
                    raise GateFailed(
                        f"duplicate: on {engine} the vote of {fault.spot.name} takes on a fault in"
                        f" {fault.fault.site.name}: leave the part or the engine out"
                    )
                if not same[fault.end]:
                    changed.add((fault.spot.name, fault.copy, fault.fault.site.name))
    for fault in faults:
        if (fault.spot.name, fault.copy, fault.fault.site.name) not in changed:
            raise GateFailed(
                f"duplicate: on {engine} a fault in {fault.fault.site.name} does not reach the end of its copy: the engine"
                " has merged the copies"
            )
