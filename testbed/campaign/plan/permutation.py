"""Sampling without replacement that can go on: the faults of a group in a random order of their own.

Draw number n is place n of a random permutation of the group's faults, which is seeded by (campaign seed, group name)
and never written down. So any range of draws costs what it holds, and no draw depends on others, not even its own
group's earlier ones. An endless group, whose places hold more faults than one, is gone through again and again, each
time in another order.
"""

from __future__ import annotations

import numpy as np

from testbed.campaign.plan.draw import Draw, Stratum, draw_at, seed_of, with_images
from testbed.campaign.plan.groups import Group
from testbed.core.arrays import Int64s, Words64
from testbed.core.errors import UsageError

_SHUFFLED = 1 << 16  # populations up to here are permuted as they are
_MOST = 1 << 62
_ROUNDS = 8


def drawn_places(population: int, seed: int, name: str, start: int, stop: int) -> Int64s:
    """(stop - start,) draws ``start`` to ``stop`` - 1: places 0 to ``population`` - 1, none twice.

    A Feistel network of keyed hashes is a permutation of the pairs of two halves of a word; what falls outside the
    population is sent through it again until it falls inside (Black & Rogaway, CT-RSA 2002).
    """
    if not 0 <= start <= stop <= population:
        raise ValueError(f"there are no draws {start} to {stop} of {population}")
    if population > _MOST:
        raise UsageError(f"{name} has more faults than can be drawn from in rounds; leave [stop] out")
    if population <= _SHUFFLED:
        return np.random.default_rng(seed_of(seed, name, 0)).permutation(population)[start:stop].astype(np.int64)
    half = np.uint64(-(-(population - 1).bit_length() // 2))
    keys = np.random.default_rng(seed_of(seed, name, 0)).integers(1 << 64, size=_ROUNDS, dtype=np.uint64)
    places = _permuted(np.arange(start, stop, dtype=np.uint64), half, keys)
    outside = places >= population
    while outside.any():
        places[outside] = _permuted(places[outside], half, keys)
        outside = places >= population
    return places.astype(np.int64)


def group_places(group: Group, seed: int, start: int, stop: int) -> Int64s:
    """(stop - start,) places of the group's draws ``start`` to ``stop`` - 1: see `drawn_places`."""
    size = group.population
    if not group.endless:
        return drawn_places(size, seed, group.name, start, stop)
    parts = []
    while start < stop:
        turn, first = divmod(start, size)
        last = min(size, first + stop - start)
        name = group.name if turn == 0 else f"{group.name}/turn {turn}"
        parts.append(drawn_places(size, seed, name, first, last))
        start += last - first
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _permuted(words: Words64, half: np.uint64, keys: Words64) -> Words64:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = words >> half, words & mask
    for key in keys:
        left, right = right, left ^ (mixed(right ^ key) & mask)
    return (left << half) | right


def mixed(words: Words64) -> Words64:
    """Mix the bits of each word: the finaliser of splitmix64 (Steele, Lea & Flood, OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def members_of(group: Group, positions: Int64s) -> tuple[Int64s, Int64s]:
    """(which member each position is in, its position there)."""
    member = np.searchsorted(group.starts, positions, side="right") - 1
    return member, positions - group.starts[member]


def draw_of(group: Group, number: int, stratum: Stratum, position: int, seed: int) -> Draw:
    """Draw ``number`` of the group, which fell on ``position`` of a member. What is drawn together with a place, and the
    images that a persistent fault is run on, are seeded by (seed, group name, number)."""
    rng = _UNUSED
    if stratum.op == "random" or stratum.pattern != "single":
        rng = np.random.default_rng(seed_of(seed, group.name, number + 1))
    return with_images(draw_at(stratum, number, position, rng), stratum.image_sample, seed, group.name)


_UNUSED = np.random.default_rng(0)  # for faults that are told by their place alone
