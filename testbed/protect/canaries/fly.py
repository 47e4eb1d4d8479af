"""All canaries of a protected file on one engine.

What an engine folds away, merges or never evaluates is found here, not in a campaign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape

from onnx import ModelProto

from testbed.core.arrays import Float32s
from testbed.core.site import SiteTable
from testbed.instrument.sites.catalogue import catalogue
from testbed.instrument.table import table_of
from testbed.protect.canaries.alarms import checks_watched, fly_under_checks
from testbed.protect.canaries.guards import fly_before_guards, guard_faults
from testbed.protect.canaries.votes import fly_in_copies, vote_faults
from testbed.protect.canaries.weights import fly_in_weights
from testbed.protect.contract import Applied


@dataclass(frozen=True)
class Canary:
    """How many faults were put in on an engine, each of which had to show and did: under checks (``activations``: how many
    checks), into weights, before guards and into the copies of votes (``guards``, ``votes``: how many of these).

    unseen: weights of 8 bits in which it did not: what one of them can change is less than the rounding of a product.
    seen_by_others: checks of 16 or 8 bits that did not see the largest number themselves, while others did.
    """

    engine: str
    activations: int
    weights: int
    unseen: tuple[str, ...] = ()
    guards: int = 0
    votes: int = 0
    seen_by_others: tuple[str, ...] = ()


def fly(proto: ModelProto, applied: Sequence[Applied], image: Float32s, engine: str, precision: str) -> Canary:
    """Put values out of range before each guard, a fault into each copy of each vote, a loud value under each check, and one
    into a weight of each checked product.

    image: (1, C, S, S). Raises GateFailed naming the guard, vote or check that does not do what it is there for.
    """
    table = _table(proto.SerializeToString(), applied)
    guards, votes = guard_faults(table, applied), vote_faults(table, applied)
    checks = checks_watched(table, applied)
    fly_before_guards(proto, table, guards, image, engine, precision)
    fly_in_copies(proto, table, votes, image, engine, precision)
    others = fly_under_checks(proto, table, checks, image, engine, precision)
    weights, unseen = fly_in_weights(proto, table, applied, image, engine, precision)
    return Canary(
        engine=engine,
        activations=len(checks),
        weights=weights,
        unseen=unseen,
        guards=len({fault.spot.name for fault in guards}),
        votes=len({fault.spot.name for fault in votes}),
        seen_by_others=others,
    )


def _table(plain: bytes, applied: Sequence[Applied]) -> SiteTable:
    """Sites by name, and the tensors of checks that cover none of them under their own."""
    known = catalogue(plain)
    named = {site.name for site in known.recognised}
    spots = [spot for done in applied for spot in done.places if named.isdisjoint(spot.covers)]
    return table_of(known, plain, "model", also=[escape(name) for spot in spots for name in spot.covers])
