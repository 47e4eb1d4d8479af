"""Real faults for gates: of every kind of site, in the first, a middle and the last block that has it.

Single bits seldom end where parts of a graph and the whole differ though they agree on all usual numbers: at an overflow. A
scale that is fused into a product in one of them, and not in the other, is applied before or after it. So numbers are
also written that overflow in what follows, or whose square does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from testbed.campaign.evaluate.contract import Injections
from testbed.core.arrays import Words32
from testbed.core.formats import Format
from testbed.core.site import Site
from testbed.instrument.ports.feed import NO_SITE, PortFeed

PER_KIND = 4
"""Faults of each number of points, per kind of site and block."""
_ALL = 2**32 - 1
_OF_SIZE = (16, 8, 2, 2, 1, 1, 1, 1)  # words in each binade, from the largest down
_SQUARES = 4  # binades on each side of the largest number's root


def sample(
    ports: Mapping[str, int],
    sites: Iterable[Site],
    live: Callable[[Injections], Words32],
    images: int,
    per_kind: int,
    seed: int,
) -> Injections:
    """Flips of one bit, at one element and at two; then large numbers and infinity.

    ports: of the twin, by site. sites: of which kinds they are. live: golden words of strikes that have none yet.
    """
    rng = np.random.default_rng([seed, per_kind])
    site, index, masks = [], [], []

    def add(faulty_site: Site, places: NDArray[np.int64], what: list[tuple[int, int, int]]) -> None:
        unused = 2 - len(places)
        site.append([ports[faulty_site.name]] * len(places) + [NO_SITE] * unused)
        index.append([*places, *[0] * unused])
        masks.append(what)

    kinds = list(_kinds(sites))
    for faulty_site in (faulty_site for alike in kinds for faulty_site in alike):
        for number in range(2 * per_kind):
            points = 1 + number % 2 if faulty_site.elements > 1 else 1
            places = _elements(faulty_site, points, number < per_kind, rng)
            add(faulty_site, places, [(_ALL, 0, 1 << int(rng.integers(faulty_site.format.bits))) for _ in range(2)])
    for alike in kinds:
        for number, word in enumerate(loud_words(alike[0].format, rng)):
            faulty_site = alike[number % len(alike)]
            add(faulty_site, _elements(faulty_site, 1, number % 2 == 0, rng), [(0, word, 0), (_ALL, 0, 0)])
    and_, or_, xor = np.moveaxis(np.array(masks, np.uint32), 2, 0)
    none = np.zeros_like(xor)
    unknown = PortFeed(np.array(site, np.int64), np.array(index, np.int64), and_, or_, xor, none)
    injections = Injections(rng.integers(images, size=len(site)), unknown)
    words = np.where(unknown.site == NO_SITE, 0, live(injections)).astype(np.uint32)
    return Injections(injections.image, unknown.with_golden(words))


def sample_size(sites: Iterable[Site], per_kind: int) -> int:
    """How many faults `sample` makes."""
    rng = np.random.default_rng(0)
    return sum(2 * per_kind * len(alike) + len(loud_words(alike[0].format, rng)) for alike in _kinds(sites))


def loud_words(form: Format, rng: np.random.Generator) -> list[int]:
    """Words of either sign: many of the largest size, from which a factor of two decides what overflows, fewer of smaller
    ones, those whose squares overflow, and infinity; of integers the largest and the smallest."""
    if not form.exponent:
        return [(1 << form.bits - 1) - 1, 1 << form.bits - 1]
    infinity = (1 << form.exponent) - 1
    bias = infinity >> 1
    exponents = [infinity - below for below, words in enumerate(_OF_SIZE, 1) for _ in range(words)]
    exponents += range(bias + bias // 2 + _SQUARES, bias + bias // 2 - _SQUARES, -2)
    fractions = rng.integers(1 << form.mantissa, size=len(exponents))
    words = [exponent << form.mantissa | int(part) for exponent, part in zip(exponents, fractions, strict=True)]
    words.append(infinity << form.mantissa)
    return [
        word | int(sign) << form.bits - 1 for word, sign in zip(words, rng.integers(2, size=len(words)), strict=True)
    ]


def _kinds(sites: Iterable[Site]) -> Iterator[list[Site]]:
    """Per kind of activation, up to three sites."""
    by_kind: dict[str, list[Site]] = {}
    for site in sites:
        if site.where == "activation":
            by_kind.setdefault(site.name.removeprefix(f"block.{site.block}."), []).append(site)
    for alike in by_kind.values():
        yield list(dict.fromkeys((alike[0], alike[len(alike) // 2], alike[-1])))


def _elements(site: Site, count: int, first: bool, rng: np.random.Generator) -> NDArray[np.int64]:
    """Distinct ones. first: in the first row of each axis but the last."""
    most = max(count, site.shape[-1]) if first else site.elements
    return rng.choice(most, size=count, replace=False)
