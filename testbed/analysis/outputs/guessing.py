"""Whether an accuracy is more than guessing gives: what wrong preprocessing or another order of the classes leaves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from testbed.analysis.stats import clopper_pearson

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Accuracy:
    """The accuracy on ``images`` images of a problem with ``classes`` classes. ``value`` with its exact 95 % interval,
    and what guessing gets right: the larger of 1 / classes and the share on which these predictions and these labels
    would agree if they had nothing to do with one another, as in Cohen's kappa. All are shares in [0, 1]."""

    value: float
    low: float
    high: float
    guessed: float
    images: int
    classes: int

    @property
    def is_guessing(self) -> bool:
        """Whether the interval does not lie above what guessing gets right; of one class, nothing can be told."""
        return self.classes > 1 and self.low <= self.guessed

    def describe(self) -> str:
        """Words for a warning or a refusal, to come after the name of the data."""
        limits = f"[{100 * self.low:.2f}, {100 * self.high:.2f}]"
        return (
            f"accuracy {100 * self.value:.2f} % {limits} of {self.images:,} images is no more than guessing gives"
            f" ({100 * self.guessed:.2f} % of {self.classes:,} classes); are preprocessing, order of the classes and"
            " weights those it was trained with?"
        )


def accuracy_against_guessing(predicted: ArrayLike, labels: ArrayLike, classes: int) -> Accuracy:
    """Compares predictions with guessing. predicted: (n,) integers, -1 for none; labels: (n,), n at least 1. Images of
    one class only, on which any predictions seem to have nothing to do with the labels, are held against 1 / classes
    alone."""
    prediction, truth = np.asarray(predicted, np.int64), np.asarray(labels, np.int64)
    n, right = len(truth), int((prediction == truth).sum())
    shares = np.bincount(truth, minlength=classes) / n
    by_chance = 0.0
    if (shares > 0).sum() > 1:
        by_chance = float(shares @ (np.bincount(prediction[prediction >= 0], minlength=len(shares))[: len(shares)] / n))
    return _held_against(right, n, classes, by_chance)


def guessing_warning(predicted: ArrayLike, labels: ArrayLike, classes: int) -> str | None:
    """What to tell a user whose model is no better than guessing; None where it is, or where it cannot be told."""
    if not len(np.asarray(labels)):
        return None
    return _warning(accuracy_against_guessing(predicted, labels, classes))


def share_warning(accuracy: float, images: int, classes: int) -> str | None:
    """`guessing_warning` where the share of right images is all that is known: it is held against 1 / classes."""
    return _warning(_held_against(round(accuracy * images), images, classes, 0.0)) if images else None


def _held_against(right: int, images: int, classes: int, by_chance: float) -> Accuracy:
    low, high = (float(limit) for limit in clopper_pearson(right, images, _CONFIDENCE))
    return Accuracy(right / images, low, high, max(1 / classes, by_chance), images, classes)


def _warning(accuracy: Accuracy) -> str | None:
    return accuracy.describe() if accuracy.is_guessing else None
