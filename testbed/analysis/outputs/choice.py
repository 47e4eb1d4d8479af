"""Which images stand for a data set where only some are taken: a seeded random choice, stratified by class.

Data sets that lie in class folders are sorted by class, so their first images are of one class. Here every image has a
place in a random order that follows from the seed, the purpose and its id alone, and classes take turns in proportion
to their size. Whatever order the images come in, the choice is the same; a larger choice holds every smaller one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from testbed.analysis.outputs.confidence import Tiers, check_sizes
from testbed.core.errors import UsageError

TEST_IMAGES = "test images"  # purposes: choices for different ones have nothing to do with one another
TRAIN_IMAGES, VALIDATION_IMAGES = "training images", "validation images"
NAMED_IMAGES = "named images"
BIT_ERROR_RATE = "bit-error rate"
CALIBRATION = "calibration"


def stratified_order(ids: Sequence[str], labels: ArrayLike, seed: int, purpose: str) -> NDArray[np.int64]:
    """(n,) all positions, in an order of which every beginning is a stratified random choice.

    ids: n distinct names; labels: (n,) integers. Within a class the order is random. Of each class one image comes first;
    beyond that, image number r + 1 of a class of N comes at (r + 1/2) / N, which is proportional allocation by Webster's
    method: unlike that of largest remainders, it never takes back a place when the choice grows.
    """
    classes = np.asarray(labels)
    draws = _draws(ids, seed, purpose)
    by_class = np.lexsort((draws, classes))
    _, starts, sizes = np.unique(classes[by_class], return_index=True, return_counts=True)
    rank = np.arange(len(classes)) - np.repeat(starts, sizes)
    turn = np.where(rank == 0, 0.0, (rank + 0.5) / np.repeat(sizes, sizes))
    return by_class[np.lexsort((draws[by_class], turn))].astype(np.int64)


def choose(ids: Sequence[str], labels: ArrayLike, wanted: int, seed: int, purpose: str) -> NDArray[np.int64]:
    """(wanted,) ascending positions of a random choice with the classes in proportion, each present if there is room.

    See `stratified_order`. Raises UsageError for more than there are.
    """
    if not 0 <= wanted <= len(ids):
        raise UsageError(f"{wanted} images are asked for, and there are {len(ids)}")
    return np.sort(stratified_order(ids, labels, seed, purpose)[:wanted])


def tier_order(tiers: Tiers, tier: int, ids: Sequence[str], labels: ArrayLike, seed: int) -> NDArray[np.int64]:
    """(n,) positions of a tier's images, in the order in which they are chosen. ids, labels: of all images."""
    have = tiers.positions[tier]
    return have[stratified_order([ids[p] for p in have], np.asarray(labels)[have], seed, NAMED_IMAGES)]


def choose_per_tier(
    tiers: Tiers, wanted: Sequence[int], ids: Sequence[str], labels: ArrayLike, seed: int, exact: bool = True
) -> NDArray[np.int64]:
    """``wanted[i]`` positions of each tier i, tier after tier and ascending in each: the beginning of `tier_order`.

    Raises UsageError naming the tier if one is too small (all it has are taken unless ``exact``), if there is none in any,
    or if there is not one size per tier.
    """
    check_sizes_or_any(tiers, wanted, exact)
    chosen = [np.sort(tier_order(tiers, tier, ids, labels, seed)[:want]) for tier, want in enumerate(wanted)]
    return np.concatenate(chosen).astype(np.int64)


def check_sizes_or_any(tiers: Tiers, wanted: Sequence[int], exact: bool) -> None:
    """Raises UsageError naming the tier that is too small or, unless ``exact``, where there is no image in any."""
    if exact or len(wanted) != len(tiers.positions):
        check_sizes(tiers, wanted)
    elif not any(len(have) for have, want in zip(tiers.positions, wanted, strict=True) if want):
        raise UsageError(
            f"no tier has any of the images that were asked for: {len(tiers.correct)} of {len(tiers.tier_of)} are"
            " classified correctly; ask for images of other tiers, or use more images"
        )


def too_small(tiers: Tiers, wanted: Sequence[int]) -> list[str]:
    """What to tell of each tier that has fewer images than are wanted."""
    return [
        f"{tiers.edges.name(tier)} has {len(have)} of the {want} images that were asked for"
        for tier, (have, want) in enumerate(zip(tiers.positions, wanted, strict=True))
        if len(have) < want
    ]


def _draws(ids: Sequence[str], seed: int, purpose: str) -> NDArray[np.uint64]:
    """(n,) a random word per id."""
    key = f"{seed}/{purpose}/"
    words = [hashlib.blake2b((key + image_id).encode(), digest_size=8).digest() for image_id in ids]
    return np.frombuffer(b"".join(words), "<u8")
