"""How sure a classifier is, and which images are how sure.

Two quantities are called confidence and kept apart: the margin ``p1 - p2`` of the softmax (which the tiers are made
of) and the probability of one class (which SDC-10 % and SDC-20 % are about).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from testbed.core.errors import UsageError

_PRESETS = {4: (0.25, 0.5, 0.75, 1.0), 5: (0.2, 0.4, 0.6, 0.8, 1.0)}
_NAMED = 5  # as many images as an error message lists


def softmax(logits: ArrayLike) -> NDArray[np.float64]:
    """Softmax over the last axis, in float64.

    logits: (..., K). A row with a NaN is all NaN. Infinities take their limit: +inf logits share the whole
    probability equally, and a row of -inf only is uniform.
    """
    with np.errstate(invalid="ignore"):  # a signalling NaN may go quiet
        x = np.asarray(logits, np.float64)
    top = x.max(axis=-1, keepdims=True)
    infinite = np.isinf(top)
    if infinite.any():
        x = np.where(infinite, np.where(x == top, 0.0, np.where(np.isnan(x), np.nan, -np.inf)), x)
        top = np.where(infinite, 0.0, top)
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        powers = np.exp(x - top)
    return powers / powers.sum(axis=-1, keepdims=True)


def margin_of(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """(...,) the largest probability less the second largest, from (..., K); the largest itself if K = 1. NaN rows
    stay NaN."""
    if probabilities.shape[-1] == 1:
        return probabilities[..., 0]
    two = np.partition(probabilities, -2, axis=-1)
    return two[..., -1] - two[..., -2]


def margin(logits: ArrayLike) -> NDArray[np.float64]:
    """(...,) ``p1 - p2`` of the softmax of (..., K) logits."""
    return margin_of(softmax(logits))


def probability_of(logits: ArrayLike, classes: ArrayLike) -> NDArray[np.float64]:
    """(n,) the softmax probability of one class per row. logits: (n, K); classes: (n,) integers from 0 to K-1."""
    return np.take_along_axis(softmax(logits), np.asarray(classes, np.intp)[:, None], axis=-1)[:, 0]


def top1(logits: ArrayLike) -> NDArray[np.int64]:
    """(n,) the class with the largest logit, the first on ties; -1 where any logit of the row is NaN. logits: (n,
    K)."""
    values = np.asarray(logits)
    best = values.argmax(axis=1).astype(np.int64)  # argmax stops at the first NaN
    best[np.isnan(values[np.arange(len(values)), best])] = -1
    return best


@dataclass(frozen=True)
class TierEdges:
    """Right-closed upper edges of the tiers: (.25, .5, .75, 1) makes tiers [0, .25], (.25, .5], (.5, .75], (.75, 1].

    Raises UsageError unless they ascend strictly in (0, 1] and end at 1.
    """

    edges: tuple[float, ...]

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in zip((0.0, *self.edges), self.edges, strict=False))
        if not self.edges or not ascending or self.edges[-1] != 1:
            raise UsageError(
                f"tier edges must ascend from above 0 to exactly 1, such as .25 .5 .75 1, not {_listing(self.edges)}"
            )

    @classmethod
    def preset(cls, tiers: int) -> TierEdges:
        """The usual edges of 4 or 5 equal tiers. Raises UsageError for another number."""
        if tiers not in _PRESETS:
            raise UsageError(f"there are presets for 4 and 5 tiers, not {tiers}; give the edges themselves")
        return cls(_PRESETS[tiers])

    def __len__(self) -> int:
        return len(self.edges)

    @property
    def bounds(self) -> tuple[tuple[float, float], ...]:
        """(low, high) of each tier, as records keep them."""
        return tuple(zip((0.0, *self.edges), self.edges, strict=False))

    def name(self, tier: int) -> str:
        """A tier's interval, for people: "(0.25, 0.5]"."""
        return interval_name(*self.bounds[tier])


def interval_name(low: float, high: float) -> str:
    """A tier from ``low`` to ``high``, for people: its upper edge is in it, and its lower one only if that is 0."""
    return f"{'[' if low == 0 else '('}{low:g}, {high:g}]"


@dataclass(frozen=True)
class Tiers:
    """Which images are how sure. All are positions in dataset order, ascending."""

    edges: TierEdges
    positions: tuple[NDArray[np.int64], ...]  # per tier, correct images only
    correct: NDArray[np.int64]
    incorrect: NDArray[np.int64]
    tier_of: NDArray[np.int16]  # (n,) -1 for incorrect images
    margins: NDArray[np.float64]  # (n,)


def assign_tiers(margins: ArrayLike, correct: ArrayLike, edges: TierEdges) -> NDArray[np.int16]:
    """(n,) tier of each image, 0 the least confident; -1 where the prediction is wrong.

    margins: (n,) in [0, 1]; correct: (n,) bool. A margin on an edge belongs to the tier below it. Raises UsageError
    where the margin of a correct image is not in [0, 1] (NaN).
    """
    values, right = np.asarray(margins, np.float64), np.asarray(correct, bool)
    bad = np.flatnonzero(right & ~((values >= 0) & (values <= 1)))
    if len(bad):
        raise UsageError(f"the margin of {len(bad)} image(s) is not between 0 and 1 (positions {_listing(bad)})")
    return np.where(right, np.searchsorted(edges.edges, values, side="left"), -1).astype(np.int16)


def tiers_from_logits(
    logits: NDArray, labels: ArrayLike, edges: TierEdges, image_ids: Sequence[str] | None = None
) -> Tiers:
    """Tiers over the correctly classified images.

    logits: (n, K) in dataset order; labels: (n,) integers; image_ids: (n,) names for the error message (default:
    positions). Raises UsageError naming the images if a logit is NaN: such images have no confidence, and dropping
    them would bias the tiers.
    """
    truth = np.asarray(labels)
    if len(truth) != len(logits):
        raise UsageError(f"there are {len(logits)} rows of logits but {len(truth)} labels; give one label per row")
    predicted = top1(logits)
    undefined = np.flatnonzero(predicted < 0)
    if len(undefined):
        names = [image_ids[i] if image_ids is not None else str(i) for i in undefined[: _NAMED + 1]]
        raise UsageError(
            f"the logits of {len(undefined)} image(s) hold NaN: {_listing(names)}; "
            "they have no tier, so check the model or its input"
        )
    right = predicted == truth
    margins = margin(logits)
    tier_of = assign_tiers(margins, right, edges)
    positions = tuple(np.flatnonzero(tier_of == tier) for tier in range(len(edges)))
    return Tiers(edges, positions, np.flatnonzero(right), np.flatnonzero(~right), tier_of, margins)


def check_sizes(tiers: Tiers, wanted: Sequence[int]) -> None:
    """Raises UsageError naming the tier, the want and the have if a tier is too small, or if there is not one want per
    tier."""
    if len(wanted) != len(tiers.positions):
        raise UsageError(f"there are {len(tiers.positions)} tiers and {len(wanted)} wanted sizes; give one per tier")
    for tier, (have, want) in enumerate(zip(tiers.positions, wanted, strict=True)):
        if want < 0:
            raise UsageError(f"tier {tier}: {want} images were asked for; ask for 0 or more")
        if want > len(have):
            raise UsageError(
                f"tier {tier} {tiers.edges.name(tier)} has {len(have)} images and {want} were asked for; "
                f"ask for {len(have)} or fewer, or use more images"
            )


def first_of_each(tiers: Tiers, wants: Sequence[int]) -> NDArray[np.int64]:
    """The first ``wants[i]`` positions of each tier i, in dataset order within a tier, tier after tier.

    The published choice. Data sets that are sorted by class have first images of one class: see `choice`. Raises
    UsageError as `check_sizes`.
    """
    check_sizes(tiers, wants)
    return np.concatenate([have[:want] for have, want in zip(tiers.positions, wants, strict=True)]).astype(np.int64)


def _listing(values: ArrayLike) -> str:
    shown = [str(v) for v in np.asarray(values).tolist()]
    return ", ".join(shown[:_NAMED]) + (", ..." if len(shown) > _NAMED else "")
