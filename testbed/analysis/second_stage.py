"""The second stage of a sample: how many of its units, such as images, each cluster, such as a fault, is seen on, and which.

A systematic sample (Cochran, Sampling Techniques, 1977, ch. 8) takes every (n / N)-th of n units from a random start on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from testbed.core.arrays import Int64s


def systematic_sample(sizes: Sequence[int], taken: int, rng: np.random.Generator) -> Int64s:
    """(taken,) units, ascending, of 0 to ``sum(sizes)`` - 1, which lie in groups of these sizes one after the other.

    Within a group the units are put in a random order first. Each unit is taken with probability ``taken / n``, and each
    group has less than one unit more or fewer than its share. Unit i in that order holds the numbers ``i taken`` to
    ``(i + 1) taken - 1``, of which every n-th is taken: the probability is exact.
    """
    n = sum(sizes)
    if not 1 <= taken <= n:
        raise ValueError(f"{taken} of {n} units cannot be taken")
    starts = np.cumsum([0, *sizes])
    order = np.concatenate([start + rng.permutation(size) for start, size in zip(starts[:-1], sizes, strict=True)])
    places = (int(rng.integers(n)) + n * np.arange(taken)) // taken
    return np.sort(order[places]).astype(np.int64)
