"""Real faults for gates: of every kind of site, in the first, a middle and the last block that has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.evaluation import Strikes
from testbed.core.site import Site
from testbed.instrument.feed import NO_SITE, PortFeed, Words
from testbed.instrument.stages import Stages


def sample(stages: Stages, live: Callable[[Strikes], Words], images: int, per_kind: int, seed: int) -> Strikes:
    """Flips of one bit, at one element and at two. live: golden words of strikes that have none yet."""
    ports = stages.table.ports
    rng = np.random.default_rng([seed, per_kind])
    site, index, flip = [], [], []
    for found in _sites(stages):
        for number in range(2 * per_kind):
            points = 1 + number % 2 if found.elements > 1 else 1
            places = _elements(found, points, number < per_kind, rng)
            site.append([ports[found.name]] * points + [NO_SITE] * (2 - points))
            index.append([*places, *[0] * (2 - points)])
            flip.append([1 << int(rng.integers(found.format.bits)) for _ in range(2)])
    none = np.zeros((len(site), 2), np.uint32)
    unknown = PortFeed(
        np.array(site, np.int64), np.array(index, np.int64), ~none, none, np.array(flip, np.uint32), none
    )
    strikes = Strikes(rng.integers(images, size=len(site)), unknown)
    words = np.where(unknown.site == NO_SITE, 0, live(strikes)).astype(np.uint32)
    known = PortFeed(unknown.site, unknown.index, unknown.and_mask, unknown.or_mask, unknown.xor_mask, words)
    return Strikes(strikes.image, known)


def _sites(stages: Stages) -> Iterator[Site]:
    by_kind: dict[str, list[Site]] = {}
    for site in stages.table:
        if site.where == "activation":
            by_kind.setdefault(site.name.removeprefix(f"block.{site.block}."), []).append(site)
    for sites in by_kind.values():
        yield from dict.fromkeys((sites[0], sites[len(sites) // 2], sites[-1]))


def _elements(site: Site, count: int, first: bool, rng: np.random.Generator) -> NDArray[np.int64]:
    """Distinct ones. first: in the first row of each axis but the last."""
    most = max(count, site.shape[-1]) if first else site.elements
    return rng.choice(most, size=count, replace=False)
