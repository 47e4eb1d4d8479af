"""Would the accuracy be high under another order of the classes than the stated one?"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.data.classes.order import ORDERS

log = logging.getLogger(__name__)

_GAIN = 0.2  # of the accuracy, at least; and twice the stated order's
_SIGNIFICANCE = 1e-3  # of the images that only one of the two orders gets right
_PER_CLASS = 4  # images that a permutation needs: half of them find it, the others judge it
_MOST_CLASSES = 2_000  # the assignment takes the cube of their number


@dataclass(frozen=True)
class ClassOrder:
    """``classes`` in an order in which the model would be right in a share ``accuracy`` of the images; ``stated``: as it
    is. ``name``: "natural", "text", or "" for a permutation that was found from the predictions."""

    name: str
    classes: tuple[str, ...]
    accuracy: float
    stated: float


def better_order(
    predictions: NDArray[np.integer], labels: NDArray[np.integer], class_names: Sequence[str]
) -> ClassOrder | None:
    """Another order of the classes under which the predictions are right far more often, or None.

    ``predictions`` and ``labels`` (n,) index ``class_names``, the order that was taken. Simple orders are tried first.
    A permutation is the one with the most hits in one half of the images (Hungarian method on the confusion matrix),
    and its accuracy that in the other half, so that chance finds none.
    """
    if not len(labels):
        return None
    right = np.asarray(predictions == labels)
    for name, order in ORDERS.items():
        classes = order(class_names)
        to_taken = _positions(classes, class_names)  # an output of the model -> the class it would mean
        if _much_better(_hits(to_taken, predictions, labels), right, labels):
            return ClassOrder(name, tuple(classes), _share(_hits(to_taken, predictions, labels)), _share(right))
    return _permuted(predictions, labels, class_names, right)


def warn_of_order(
    predictions: NDArray[np.integer], labels: NDArray[np.integer], class_names: Sequence[str]
) -> ClassOrder | None:
    """``better_order``, told in one line."""
    better = better_order(predictions, labels, class_names)
    if better is None:
        return None
    rates = f"accuracy is {100 * better.stated:.2f} %, and would be {100 * better.accuracy:.2f} %"
    if better.name:
        log.warning(
            "%s with the classes in %s order; state it: --classes %s, in a spec [data] classes",
            *(rates, better.name, better.name),
        )
        return better
    moved = [n for n, (old, new) in enumerate(zip(class_names, better.classes, strict=True)) if old != new]
    shown = ", ".join(f"{n} {better.classes[n]!r}" for n in moved[:3]) + (", ..." if len(moved) > 3 else "")
    log.warning(
        "%s with %d classes in another order: outputs %s; state the model's order: --classes FILE, in a spec [data]"
        " classes",
        *(rates, len(moved), shown),
    )
    return better


def _permuted(
    predictions: NDArray[np.integer], labels: NDArray[np.integer], class_names: Sequence[str], right: NDArray[np.bool_]
) -> ClassOrder | None:
    from scipy.optimize import linear_sum_assignment

    count = len(class_names)
    too_few = len(labels) < _PER_CLASS * len(np.unique(labels))
    if not 1 < count <= _MOST_CLASSES or too_few or _share(right) > 0.5:
        return None
    half = np.random.default_rng(0).permutation(len(labels)) % 2 == 0

    def assigned(of: NDArray[np.bool_]) -> NDArray[np.intp]:
        confusion = np.zeros((count, count))
        known = of & (predictions >= 0)
        np.add.at(confusion, (predictions[known], labels[known]), 1)
        confusion[np.diag_indices(count)] += 1e-3  # a class without images stays where it is
        return np.asarray(linear_sum_assignment(confusion, maximize=True)[1])

    hits = np.zeros(len(labels), bool)
    for part in (half, ~half):
        hits[~part] = _hits(assigned(part), predictions[~part], labels[~part])
    if not _much_better(hits, right, labels):
        return None
    classes = tuple(class_names[index] for index in assigned(np.ones(len(labels), bool)))
    return ClassOrder("", classes, _share(hits), _share(right))


def _much_better(hits: NDArray[np.bool_], right: NDArray[np.bool_], labels: NDArray[np.integer]) -> bool:
    """Than the stated order's ``right``, than chance could have it, and than always saying the most frequent class."""
    from scipy.stats import binomtest

    accuracy, stated = _share(hits), _share(right)
    majority = np.unique(labels, return_counts=True)[1].max() / len(labels)
    if accuracy < max(stated + _GAIN, 2 * stated) or accuracy <= majority:
        return False
    only_one = int((hits != right).sum())
    won = int((hits & ~right).sum())
    return bool(binomtest(won, only_one, 0.5, alternative="greater").pvalue < _SIGNIFICANCE)


def _positions(classes: Sequence[str], class_names: Sequence[str]) -> NDArray[np.intp]:
    index = {name: position for position, name in enumerate(class_names)}
    return np.array([index[name] for name in classes], np.intp)


def _hits(
    to_taken: NDArray[np.intp], predictions: NDArray[np.integer], labels: NDArray[np.integer]
) -> NDArray[np.bool_]:
    """A prediction of -1 (no number is the largest) is wrong."""
    return np.asarray((to_taken[predictions] == labels) & (predictions >= 0))


def _share(right: NDArray[np.bool_]) -> float:
    return float(right.mean())
