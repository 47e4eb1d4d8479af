"""Which stored faults the lens looks at: a seeded sample, drawn within groups of equal outcome.

Most rows of a campaign are masked, so a plain sample of them would hold hardly a fault that did harm. Rows are therefore
drawn by outcome, each group with about as many, and weighed back (`testbed.analysis.two_phase`): estimates are of all
faults, and no group counts for more than it is.

A fault that acts on every image (a weight's) is looked at on one image, chosen at random before; so every looked-at fault is
a cluster of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from testbed.analysis.two_phase import TwoPhaseSample
from testbed.core.arrays import Int64s
from testbed.core.outcome import Outcome
from testbed.sensitivity.campaign_lens.rows import BEHIND, LensRows

GROUPS = ("sdc1", "outside", "masked", "identical")
"""Groups of outcomes: another top-1; outside the tolerance otherwise, or no output; within it; not a bit of difference."""


@dataclass(frozen=True, eq=False)
class LensSample:
    """The rows to look at, and how they were drawn. rows: in the order of their images; behind: rows that were left out,
    as the lens sees nothing of them; candidates: faults of each of `GROUPS` that they were drawn from."""

    rows: LensRows
    design: TwoPhaseSample
    behind: int
    candidates: tuple[int, ...]

    @property
    def drawn(self) -> tuple[int, ...]:
        """Faults of each of `GROUPS` that are looked at."""
        return tuple(np.bincount(self.design.group, minlength=len(GROUPS)).tolist())


def draw_sample(rows: LensRows, size: int, seed: int) -> LensSample:
    """Draw ``size`` faults, or all where there are fewer. The same rows, size and seed give the same sample."""
    random = np.random.default_rng([seed, *map(ord, rows.model.where)])
    seen = rows.take(rows.entry != BEHIND)
    candidates = _on_one_image(seen, random)
    group = group_of(candidates)
    sizes = np.bincount(group, minlength=len(GROUPS))
    ordered = np.lexsort((candidates.fault_id, candidates.bit_class.astype(str), candidates.kind.astype(str), group))
    starts = np.cumsum(sizes) - sizes
    chosen = [
        ordered[start + _spread(int(units), share, random)]
        for start, units, share in zip(starts, sizes, shares_of(sizes, size), strict=True)
    ]
    drawn = np.sort(np.concatenate(chosen))
    drawn = drawn[np.argsort(candidates.image[drawn], kind="stable")]
    taken = candidates.take(drawn)
    design = TwoPhaseSample(
        first_weight=taken.weight,
        group=group[drawn],
        group_units=sizes,
        group_weight=np.array([candidates.weight[group == number].sum() for number in range(len(GROUPS))]),
    )
    return LensSample(taken, design, len(rows) - len(seen), tuple(sizes.tolist()))


def group_of(rows: LensRows) -> Int64s:
    """(n,) number of the row's group of outcomes, in `GROUPS`."""
    group = np.where(rows.sdc1, 0, np.where(rows.outside, 1, np.where(rows.outcome == Outcome.IDENTICAL, 3, 2)))
    return group.astype(np.int64)


def shares_of(sizes: Int64s, total: int) -> list[int]:
    """How many of each group are drawn: as many of each as of any other, all of a group that has fewer; one of each at
    least, and two where it has two, as one alone has no variance."""
    shares = np.minimum(sizes, 2)
    while (rest := total - int(shares.sum())) > 0 and (open_groups := np.flatnonzero(shares < sizes)).size:
        each = max(1, rest // len(open_groups))
        for group in open_groups[: max(1, rest)]:
            shares[group] = min(sizes[group], shares[group] + each)
    return [int(share) for share in shares]


def _on_one_image(rows: LensRows, random: np.random.Generator) -> LensRows:
    """One row of each fault, at random; it stands for all of the fault's."""
    order = np.lexsort((random.permutation(len(rows)), rows.fault_id))
    first = np.flatnonzero(np.diff(rows.fault_id[order], prepend=-1))
    counts = np.diff(first, append=len(rows))
    kept = rows.take(order[first])
    return replace(kept, population=kept.population * counts)


def _spread(units: int, share: int, random: np.random.Generator) -> Int64s:
    """(share,) positions among ``units``, evenly spread from a random start: systematic sampling."""
    if not share:
        return np.zeros(0, np.int64)
    return np.floor((np.arange(share) + random.random()) * units / share).astype(np.int64)
