"""Sampling: which strata there are, and which faults are drawn from each, without replacement.

Every draw is seeded by (campaign seed, stratum name, draw number) and nothing else, so a stratum's faults do not depend
on the other strata, on their order, or on who draws them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from testbed.campaign.spec import FaultSpec
from testbed.core.fault import Masks, masks_for
from testbed.core.site import Site, SiteTable


@dataclass(frozen=True)
class Stratum:
    """site x op x bit (x tier). ``images``: the image ids a fault here may strike; empty where every image is run."""

    target: str
    site: Site
    op: str
    bit: int | None
    tier: int | None
    images: tuple[str, ...]

    @property
    def name(self) -> str:
        """What its draws are seeded by: bits go by their role, so that campaigns in two precisions draw the same faults."""
        bit = self.site.format.role_name(self.bit)
        return f"{self.target}/{self.site.name}/{self.op}/{bit}/{self.tier}"

    @property
    def population(self) -> int:
        """(element, image) pairs of this op and bit; elements where a fault strikes every image."""
        return self.site.elements * max(1, len(self.images))


@dataclass(frozen=True)
class Draw:
    """One sampled fault. ``image_id`` is None where every image is run."""

    number: int
    index: int
    masks: Masks
    image_id: str | None


def strata(spec: FaultSpec, table: SiteTable, tier_images: Sequence[Sequence[str]]) -> Iterator[Stratum]:
    """Every stratum of one [[faults]] section, in a fixed order. tier_images: image ids per tier."""
    for site in table.select(spec.where, spec.sites):
        bits = range(site.format.bits) if spec.bits == "all" else spec.bits
        for op in spec.ops:
            for bit in (None,) if op == "random" else bits:
                if spec.where == "weight":
                    yield Stratum(spec.target, site, op, bit, None, ())
                    continue
                for tier, images in enumerate(tier_images):
                    if images:
                        yield Stratum(spec.target, site, op, bit, tier, tuple(images))


def draws(stratum: Stratum, wanted: int, seed: int) -> list[Draw]:
    """Up to ``wanted`` distinct faults: all of them where the stratum holds no more."""
    population = stratum.population
    taken: set[int] = set()
    result = []
    for number in range(min(wanted, population)):
        rng = np.random.default_rng(_seed(seed, stratum.name, number))
        place = int(rng.integers(population))
        while place in taken:
            place = int(rng.integers(population))
        taken.add(place)
        image, index = divmod(place, stratum.site.elements)
        word = int(rng.integers(1 << stratum.site.format.bits)) if stratum.op == "random" else 0
        masks = masks_for(stratum.op, stratum.site.format, stratum.bit, word)
        result.append(Draw(number, index, masks, stratum.images[image] if stratum.images else None))
    return result


def _seed(campaign: int, stratum: str, draw: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{campaign}/{stratum}/{draw}".encode(), digest_size=16).digest(), "little")
