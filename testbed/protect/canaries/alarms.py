"""Canaries under checks: a loud value in what a check covers, which that check itself has to see, for its image alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from testbed.core.arrays import Float32s
from testbed.core.errors import GateFailed
from testbed.core.protected import DETECTED, PREFIX
from testbed.core.site import Site, SiteTable
from testbed.protect.canaries.loud import INTEGERS, LOUD, LoudFault, in_rows, open_canary_twin
from testbed.protect.checks.alarms import block_of, outside_of
from testbed.protect.contract import Applied, ProtectedPlace

_CORRECTING = ("guard", "vote")
_NOT_FINITE = {  # NaN, infinity
    "fp32": (0x7FC00000, 0x7F800000),
    "fp16": (0x7E00, 0x7C00),
    "bf16": (0x7FC0, 0x7F80),
}


@dataclass(frozen=True)
class WatchedCheck:
    """A check, the sites that faults are put into, and where its own alarm is: a column of ``tensor``, (batch, checks)."""

    step: str
    spot: ProtectedPlace
    sites: tuple[Site, ...]
    tensor: str
    column: int

    @property
    def faults(self) -> list[LoudFault]:
        words = _NOT_FINITE if self.spot.kind == "finite" else LOUD
        return [LoudFault(site, word) for site in self.sites for word in words[site.format_name]]


def checks_watched(table: SiteTable, applied: Sequence[Applied]) -> list[WatchedCheck]:
    """Each check with a site that it covers, and of a copy the same site in it.

    Of several sites the last one: an activation's range is only of sums, so of its largest value.
    """
    sites = {site.name: site for site in table if site.where == "activation"}
    tensors = {site.tensor: site for site in sites.values()}
    watched, columns = [], dict[str, int]()
    for done in applied:
        for spot in done.places:
            if spot.kind in _CORRECTING:
                continue
            tensor = outside_of(done.name, block_of([spot.name, *spot.covers]))
            column = columns.get(tensor, 0)
            columns[tensor] = column + 1
            covered = [sites[name] for name in spot.covers if name in sites][-1:]
            if spot.kind == "copy":
                copy = f"{PREFIX}duplicate.1.{spot.name}.{covered[-1].tensor}" if covered else ""
                covered += [tensors[copy]] if copy in tensors else []
            if covered:
                watched.append(WatchedCheck(done.name, spot, tuple(covered), tensor, column))
    return watched


def fly_under_checks(
    proto: ModelProto,
    table: SiteTable,
    checks: Sequence[WatchedCheck],
    image: Float32s,
    engine: str,
    precision: str,
) -> tuple[str, ...]:
    """Put loud values under each check.

    image: (1, C, S, S). Gives back the checks of narrow formats whose alarms only other checks raised: the largest number of
    16 or 8 bits can be less than what their rounding is allowed. Raises GateFailed naming the check that does not see a
    fault, and for an engine in which a fault raises the alarm of another image.
    """
    if not checks:
        return ()
    faults = [(number, fault) for number, check in enumerate(checks) for fault in check.faults]
    sites = [fault.site for _, fault in faults]
    own, any_check = np.zeros(len(faults), bool), np.zeros(len(faults), bool)
    with open_canary_twin(proto, table, sites, [c.tensor for c in checks], image, engine, precision) as twin:
        for start, some in in_rows([fault for _, fault in faults]):
            results, end = twin.run(some), start + len(some)
            any_check[start:end] = results[DETECTED][: len(some)]
            if results[DETECTED][len(some) :].any():
                raise GateFailed(f"on {engine} a fault in one image raises the alarm of another: leave that engine out")
            for row, (number, _) in enumerate(faults[start:end]):
                own[start + row] = results[checks[number].tensor][row, checks[number].column]
    for number, check in enumerate(checks):
        for site in check.sites:
            rows = [row for row, (owner, fault) in enumerate(faults) if (owner, fault.site) == (number, site)]
            if not _sees(site, any_check[rows]) or (site.format_name == "fp32" and not _sees(site, own[rows])):
                raise GateFailed(
                    f"{check.step}: on {engine} the check {check.spot.name} does not see a fault in {site.name}: the"
                    " engine has folded it away, or its threshold never fires"
                )
    silent = {
        number for row, (number, fault) in enumerate(faults) if fault.site.format_name not in INTEGERS and not own[row]
    }
    return tuple(checks[number].spot.name for number in sorted(silent))


def _sees(site: Site, alarms: NDArray[np.bool_]) -> bool:
    """Tell whether a fault was seen; of the two ends of an integer, that which is further away is enough."""
    return bool(alarms.any() if site.format_name in INTEGERS else alarms.all())
