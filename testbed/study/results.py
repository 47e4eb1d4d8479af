"""What came out of a study: test accuracies with intervals over seeds, and paired differences between variants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from testbed.analysis.stats import mean_interval, wilson

CONFIDENCE = 0.95

Verdict = Literal["holds", "reversed", "undecided"]


@dataclass(frozen=True)
class SeedScore:
    """One training: accuracies in [0, 1], ``low`` and ``high`` Wilson's limits over the test images. ``folder``: of the
    model, below the study's. ``seconds``: all of its epochs."""

    seed: int
    test_accuracy: float
    low: float
    high: float
    validation_accuracy: float
    best_epoch: int
    epochs: int
    seconds: float
    folder: str

    @classmethod
    def of(
        cls,
        seed: int,
        *,
        test_accuracy: float,
        test_images: int,
        validation_accuracy: float,
        best_epoch: int,
        epochs: int,
        seconds: float,
        folder: str,
    ) -> SeedScore:
        """Score a training, with its interval over ``test_images``."""
        limits = wilson(round(test_accuracy * test_images), test_images, CONFIDENCE)
        low, high = float(limits.low), float(limits.high)
        return cls(seed, test_accuracy, low, high, validation_accuracy, best_epoch, epochs, seconds, folder)


@dataclass(frozen=True)
class VariantScore:
    """Mean test accuracy over ``n`` seeds, with Student's t interval over them (``over`` "seeds"); of a single seed, with
    Wilson's interval over its test images (``over`` "test images"), which says nothing of other seeds."""

    name: str
    n: int
    mean: float
    low: float
    high: float
    over: Literal["seeds", "test images"]
    standard_deviation: float | None
    parameters: int
    seconds: float
    published: float | None
    scores: tuple[SeedScore, ...]

    @classmethod
    def of(cls, name: str, scores: Sequence[SeedScore], parameters: int, published: float | None) -> VariantScore:
        accuracies = [score.test_accuracy for score in scores]
        mean, low, high = mean_interval(accuracies)
        over: Literal["seeds", "test images"] = "seeds"
        if len(scores) == 1:
            low, high, over = scores[0].low, scores[0].high, "test images"
        return cls(
            name,
            len(scores),
            mean,
            max(0.0, low),
            min(1.0, high),
            over,
            float(np.std(accuracies, ddof=1)) if len(scores) > 1 else None,
            parameters,
            float(sum(score.seconds for score in scores)),
            published,
            tuple(scores),
        )


@dataclass(frozen=True)
class VariantDifference:
    """Mean of ``first`` minus ``second`` over the seeds, in pairs: both variants of a seed share split and test images.

    ``low`` and ``high`` are None for a single seed. The intervals are of one pair each, not of all at once.
    ``published``: the same difference as it was reported; ``verdict``: whether its sign holds here.
    """

    first: str
    second: str
    mean: float
    low: float | None
    high: float | None
    published: float | None
    verdict: Verdict | None

    @classmethod
    def of(cls, first: VariantScore, second: VariantScore) -> VariantDifference:
        pairs = [a.test_accuracy - b.test_accuracy for a, b in zip(first.scores, second.scores, strict=True)]
        mean, low, high = mean_interval(pairs)
        several = len(pairs) > 1
        published = None
        if first.published is not None and second.published is not None:
            published = round(first.published - second.published, 6)
        verdict = _verdict(published, low, high) if published else None
        return cls(
            first.name,
            second.name,
            mean,
            low if several else None,
            high if several else None,
            published,
            verdict if several or verdict is None else "undecided",
        )


@dataclass(frozen=True)
class StudyReport:
    """``is_published_setting``: are published values of this very setting? Numbers of images are those of a training."""

    study: str
    about: str
    dataset: str
    preset: str
    recipe: str
    epochs: int
    train_images: int
    validation_images: int
    test_images: int
    seeds: tuple[int, ...]
    confidence: float
    is_published_setting: bool
    variants: tuple[VariantScore, ...]
    differences: tuple[VariantDifference, ...]

    @property
    def test_accuracies(self) -> dict[str, float]:
        """Variant -> mean test accuracy in per cent, which is how the published study has it."""
        return {variant.name: round(100 * variant.mean, 4) for variant in self.variants}


def differences_of(variants: Sequence[VariantScore]) -> tuple[VariantDifference, ...]:
    """Compare every two variants: the first that is named minus the second."""
    return tuple(VariantDifference.of(first, second) for first, second in combinations(variants, 2))


def _verdict(published: float, low: float, high: float) -> Verdict:
    if low > 0:
        return "holds" if published > 0 else "reversed"
    if high < 0:
        return "holds" if published < 0 else "reversed"
    return "undecided"
