"""Canaries before guards: a value out of range has to come back as its bound, and what follows has to take that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from testbed.core.arrays import Float32s
from testbed.core.errors import GateFailed
from testbed.core.protected import PREFIX
from testbed.core.site import Site, SiteTable
from testbed.protect.canaries.loud import LOUD, LoudFault, in_rows, open_canary_twin
from testbed.protect.contract import Applied, ProtectedPlace

_INFINITIES = (np.inf, -np.inf)


@dataclass(frozen=True)
class GuardFault:
    """A value put before a guard, and what has to come back: the same number in float32, NaN where that is kept."""

    spot: ProtectedPlace
    tensor: str
    before: LoudFault
    wanted: float

    @property
    def after(self) -> LoudFault:
        """The fault that writes what has to come back, which the guard lets through."""
        return self.before.writing(self.wanted)


def guard_faults(table: SiteTable, applied: Sequence[Applied]) -> list[GuardFault]:
    """Values above and below the range of each guard, infinities and NaN, in its middle element and in the first, which is of
    the class token where there is one. Raises GateFailed for a range without bounds."""
    sites = {site.name: site for site in table if site.where == "activation"}
    return [
        fault
        for done in applied
        for spot in done.places
        if spot.kind == "guard"
        for fault in _of_guard(spot, sites[spot.name], str(done.settings["nan"]))
    ]


def _of_guard(spot: ProtectedPlace, site: Site, nan: str) -> Iterator[GuardFault]:
    low, high = spot.low, spot.high
    if low is None or high is None or not np.isfinite([low, high]).all():
        raise GateFailed(f"range: the guard of {spot.name} has no bounds: it brings nothing back")
    tensor = f"{PREFIX}range.{spot.name}"
    words = [word ^ sign for word in LOUD[site.format_name] for sign in (0, 1 << (site.format.bits - 1))]
    for at in (None, 0):
        quiet = LoudFault(site, 0, at)
        out_of_range = (*(replace(quiet, word=word) for word in words), *map(quiet.writing, _INFINITIES))
        for number, before in enumerate(out_of_range):
            yield GuardFault(spot, tensor, before, low if number % 2 else high)
        yield GuardFault(spot, tensor, quiet.writing(np.nan), 0.0 if nan == "zero" else np.nan)


def fly_before_guards(
    proto: ModelProto, table: SiteTable, faults: Sequence[GuardFault], image: Float32s, engine: str, precision: str
) -> None:
    """Put each value before its guard, then what has to come back of it: outputs have to have the same bits.

    image: (1, C, S, S). Raises GateFailed naming the guard that lets a value through, or past which something is computed.
    """
    if not faults:
        return
    sites, watched = [fault.before.site for fault in faults], [fault.tensor for fault in faults]
    output = proto.graph.output[0].name
    with open_canary_twin(proto, table, sites, watched, image, engine, precision) as twin:
        for start, some in in_rows([fault.before for fault in faults]):
            flown = faults[start : start + len(some)]
            results, clipped = twin.run(some), twin.run([fault.after for fault in flown])
            for row, fault in enumerate(flown):
                value = float(results[fault.tensor][row].reshape(-1)[fault.before.element])
                if not _is_same(value, fault.wanted):
                    raise GateFailed(
                        f"range: on {engine} the guard of {fault.spot.name} makes {value:g} of a value out of range, not"
                        f" {fault.wanted:g}: leave the engine out"
                    )
                if not _same_bits(results[output][row], clipped[output][row]):
                    raise GateFailed(
                        f"range: on {engine} something is computed from {fault.spot.name} past its guard: leave the engine"
                        " out"
                    )


def _is_same(value: float, wanted: float) -> bool:
    return bool(np.isnan(value)) if np.isnan(wanted) else value == np.float32(wanted)


def _same_bits(first: NDArray, second: NDArray) -> bool:
    return first.tobytes() == second.tobytes()
