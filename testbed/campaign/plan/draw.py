"""Sampling: which strata there are, and which faults are drawn from each, without replacement.

Where what a fault does is drawn together with its place (a random word, bits of each word's own), a place holds more
faults than one: any number can be drawn then, each place once before any a second time.

Every draw is seeded by (campaign seed, stratum name, draw number) and nothing else, so a stratum's faults do not depend
on the other strata, on their order, or on who draws them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from testbed.campaign.plan.fault_words import FaultWords, words_at_sites, words_of_bits, words_of_elements
from testbed.campaign.plan.image_sample import ImageSample
from testbed.campaign.spec.faults import FaultSpec
from testbed.core.errors import UsageError
from testbed.core.fault import Masks, Op, masks_for
from testbed.core.patterns import Matrices, combination, combinations, subset, windows
from testbed.core.site import Site, SiteTable


class FaultSubset(Protocol):
    """The faults of a stratum that takes some of a site's elements only, others in each image."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int:
        """(image, element) pairs."""

    def member(self, chosen: int) -> tuple[int, int]:
        """(position among the stratum's images, element) of one of them, by its number."""


_COUNTED = 1 << 40  # combinations of sites, in the population that is told
_MOST = (1 << 63) - 1


@dataclass(frozen=True)
class Stratum:
    """A stratum: site x op x bit (x tier). ``images``: the image ids a fault here may strike; empty where every image
    is run.

    ``section``: what it is a stratum of; None for single faults. ``sites``: what faults at several sites choose from;
    ``site`` is then the first of these, and not what is struck. ``within``: the (image, element) pairs that it holds; None for
    all. ``image_sample``: how a persistent fault's images are drawn; None where every image is run.
    """

    target: str
    site: Site
    op: Op
    bit: int | None
    tier: int | None
    images: tuple[str, ...]
    section: FaultSpec | None = None
    sites: tuple[Site, ...] = ()
    within: FaultSubset | None = None
    image_sample: ImageSample | None = None

    @cached_property
    def pattern(self) -> str:
        return self.section.pattern_name(self.op) if self.section else "single"

    @property
    def persistent(self) -> bool:
        return not self.images

    @cached_property
    def name(self) -> str:
        """What its draws are seeded by: bits go by their role, so that campaigns in two precisions draw the same faults."""
        bit = self.site.format.role_name(self.bit)
        site = "*" if self.sites else self.site.name
        single = f"{self.target}/{site}/{self.op}/{bit}/{self.tier}"
        if self.within is not None:
            single = f"{single}/{self.within.name}"
        return single if self.pattern == "single" else f"{single}/{self.pattern}"

    @cached_property
    def places(self) -> int:
        """Sets of words, in one image, that a fault can strike; of one word's bits where these are chosen among more."""
        section = self.section
        if section is None or section.pattern == "single":
            return self.site.elements
        if section.pattern == "sites":
            return combinations([site.elements for site in self.sites], section.count or 0)
        if section.pattern == "bits":
            sets = 1 if section.adjacent else math.comb(len(self.bits), section.count or 0)
            return self.site.elements * sets
        return section.geometry.positions(Matrices.of(self.site.shape, self.site.where))

    @property
    def bits(self) -> tuple[int, ...]:
        """The bits of the site's words that the section asks for."""
        asked = self.section.bits if self.section else "all"
        return tuple(range(self.site.format.bits)) if asked == "all" else tuple(sorted(asked))

    @property
    def endless(self) -> bool:
        """Whether what a fault does is drawn together with its place, which then holds more faults than one."""
        if self.op == "random":
            return True
        return self.bit is None and self.section is not None and self.section.pattern != "bits" and len(self.bits) > 1

    @property
    def drawable(self) -> float:
        """How many faults can be drawn: infinity from an endless stratum."""
        return math.inf if self.endless else self.size

    def drawn_of(self, wanted: int) -> int:
        """How many faults are drawn where so many are wanted."""
        return int(min(wanted, self.drawable))

    def inclusion(self, drawn: int) -> float | None:
        """The probability that a fault of the stratum is among so many; None for an endless one, of whose faults hardly
        any is."""
        return None if self.endless else drawn / self.size

    @property
    def size(self) -> int:
        """Faults in the stratum: (place, image) pairs of this op and bit; places where a fault strikes every image.

        What is drawn together with a place is not counted: the word of op "random", bits that each word has of its own.
        """
        return self.places * max(1, len(self.images)) if self.within is None else self.within.size

    @property
    def population(self) -> int:
        """The size as a weight that fits the plan's column: at several sites no more than 2^40 places are counted, which
        leaves the strata's proportions what they are."""
        if self.sites:
            return min(self.places, _COUNTED) * max(1, len(self.images))
        return self.size

    def check(self) -> None:
        """Raises UsageError for a stratum without a fault, or with more than can be counted."""
        if self.sites and not self.places:
            raise UsageError(
                f"pattern {self.pattern!r} needs as many sites; the section's patterns name {len(self.sites)}"
            )
        if not self.places:
            raise UsageError(
                f"site {self.site.name} is too small for pattern {self.pattern!r}; leave it out of the section: sites ="
                f' ["*", "!{self.site.name}"]'
            )
        if self.population > _MOST:
            raise UsageError(f"pattern {self.pattern!r} at site {self.site.name} has more faults than can be counted")


@dataclass(frozen=True)
class Draw:
    """One sampled fault: its first word, and, where it strikes more, all of them. ``image_id`` is None of a persistent one,
    which is run on ``image_ids``, or on every image where these are None."""

    number: int
    index: int
    masks: Masks
    image_id: str | None
    faulty: FaultWords | None = field(default=None, compare=False)
    image_ids: tuple[str, ...] | None = None


def strata(spec: FaultSpec, table: SiteTable, tier_images: Sequence[Sequence[str]]) -> Iterator[Stratum]:
    """Every stratum of one [[faults]] section, in a fixed order. tier_images: image ids per tier.

    Raises UsageError for a tensor that has no room for the section's pattern.
    """
    chosen = table.select(spec.where, spec.sites)
    several = tuple(chosen) if spec.pattern == "sites" else ()
    tiers: list[tuple[int | None, tuple[str, ...]]] = [(None, ())]
    sample = None
    if spec.persistent:
        sample = ImageSample.of(spec.images_each, tier_images)
    else:
        tiers = [(tier, tuple(images)) for tier, images in enumerate(tier_images) if images]
    for site in chosen[:1] if several else chosen:
        for op in spec.ops:
            for bit in bits_of(spec, site, op):
                for tier, images in tiers:
                    stratum = Stratum(spec.target, site, op, bit, tier, images, spec, several, image_sample=sample)
                    stratum.check()
                    yield stratum


def bits_of(spec: FaultSpec, site: Site, op: Op) -> Sequence[int | None]:
    """What strata of a site and an op there are: one per bit; of adjacent bits, per uppermost one."""
    asked = range(site.format.bits) if spec.bits == "all" else spec.bits
    if op == "random" or not spec.same_bit or spec.pattern == "sites":
        return (None,)
    if spec.pattern == "bits":
        return [run[-1] for run in windows(asked, spec.count or 0)] if spec.adjacent else (None,)
    return asked


def draws(stratum: Stratum, wanted: int, seed: int) -> list[Draw]:
    """Up to ``wanted`` distinct faults: all of them where the stratum holds no more. An endless stratum gives as many as
    are wanted, each place once before any a second time."""
    return list(drawn(stratum, wanted, seed))


def drawn(stratum: Stratum, wanted: int, seed: int) -> Iterator[Draw]:
    """The same, one by one."""
    size = stratum.size
    taken: set[int] = set()
    for number in range(stratum.drawn_of(wanted)):
        if len(taken) == size:
            taken.clear()
        rng = np.random.default_rng(seed_of(seed, stratum.name, number))
        chosen = _below(rng, size)
        while chosen in taken:
            chosen = _below(rng, size)
        taken.add(chosen)
        yield with_images(draw_at(stratum, number, chosen, rng), stratum.image_sample, seed, stratum.name)


def draw_at(stratum: Stratum, number: int, chosen: int, rng: np.random.Generator) -> Draw:
    """The fault at position ``chosen`` of the stratum's ``size``. rng: for what is drawn together with it."""
    image, position = divmod(chosen, stratum.places) if stratum.within is None else stratum.within.member(chosen)
    image_id = stratum.images[image] if stratum.images else None
    if stratum.pattern == "single":
        word = int(rng.integers(1 << stratum.site.format.bits)) if stratum.op == "random" else 0
        return Draw(number, position, masks_for(stratum.op, stratum.site.format, stratum.bit, word), image_id)
    faulty = _draw_words(stratum, position, rng)
    return Draw(number, *faulty.first, image_id, faulty)


def draw_at_random(stratum: Stratum, number: int, rng: np.random.Generator) -> Draw:
    """Any fault of the stratum, with the images that it is run on."""
    draw = draw_at(stratum, number, _below(rng, stratum.size), rng)
    return draw if stratum.image_sample is None else replace(draw, image_ids=stratum.image_sample.drawn(rng))


def with_images(draw: Draw, sample: ImageSample | None, seed: int, name: str) -> Draw:
    """The draw with the images it is run on, seeded by (campaign seed, name of what it is a draw of, draw number)."""
    if sample is None:
        return draw
    rng = np.random.default_rng(seed_of(seed, f"{name}/images", draw.number))
    return replace(draw, image_ids=sample.drawn(rng))


def _draw_words(stratum: Stratum, position: int, rng: np.random.Generator) -> FaultWords:
    section, site = stratum.section, stratum.site
    assert section is not None
    if section.pattern == "sites":
        sizes = [member.elements for member in stratum.sites]
        words = [(stratum.sites[i], element) for i, element in combination(sizes, section.count or 0, position)]
        return words_at_sites(words, stratum.op, section.bits, rng)
    if section.pattern == "bits":
        number, element = divmod(position, site.elements)
        if stratum.bit is None:
            chosen = [stratum.bits[i] for i in subset(len(stratum.bits), section.count or 0, number)]
        else:
            chosen = list(range(stratum.bit + 1 - (section.count or 0), stratum.bit + 1))
        return words_of_bits(site, element, stratum.op, chosen)
    elements = section.geometry.elements(Matrices.of(site.shape, site.where), position)
    return words_of_elements(
        site, elements, stratum.op, [stratum.bit] if stratum.bit is not None else stratum.bits, rng
    )


def most_points(sections: Sequence[FaultSpec], table: SiteTable) -> int:
    """The most activations that one fault of the sections strikes in one inference; 1 where none strikes any."""
    most = 1
    for section in sections:
        if section.where == "activation" and section.target == table.target:
            shapes = [Matrices.of(site.shape, site.where) for site in table.select(section.where, section.sites)]
            several = min(section.count or 1, len(shapes)) if section.pattern == "sites" else 1
            most = max(most, several, *(section.geometry.most(shape) for shape in shapes))
    return most


def _below(rng: np.random.Generator, size: int) -> int:
    """A whole number from 0 to ``size`` - 1, however large."""
    if size <= _MOST:
        return int(rng.integers(size))
    width = (size - 1).bit_length()
    while True:
        number = int.from_bytes(rng.bytes(-(-width // 8)), "little") & ((1 << width) - 1)
        if number < size:
            return number


def seed_of(campaign: int, name: str, number: int) -> int:
    """The seed of draw ``number`` in what is called ``name``."""
    return int.from_bytes(hashlib.blake2b(f"{campaign}/{name}/{number}".encode(), digest_size=16).digest(), "little")
