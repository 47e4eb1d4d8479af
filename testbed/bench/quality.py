"""How good a classifier's outputs are, beyond the share it gets right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support, top_k_accuracy_score

from testbed.analysis.outputs.confidence import softmax
from testbed.core.errors import TestbedError


@dataclass(frozen=True)
class Quality:
    """Shares in [0, 1]. top5 is top-K with K classes or fewer. Precision, recall and F1 are macro averages: classes weigh
    equally, one that is never predicted has precision 0. confidence: the highest class probability, its mean over all images,
    over those that are right and over those that are wrong (None where there are none), and the gap between the two.
    entropy_nats: mean entropy of the class probabilities."""

    images: int
    top1: float
    top5: float
    precision: float
    recall: float
    f1: float
    per_class: dict[str, float]
    confidence: float
    confidence_right: float | None
    confidence_wrong: float | None
    confidence_gap: float | None
    entropy_nats: float


def quality(logits: NDArray[np.float32], labels: NDArray[np.int64], classes: Sequence[str]) -> Quality:
    """Measures accuracy and calibration. logits: (n, K); labels: (n,). Raises TestbedError for logits that are not
    finite, or no image."""
    if not len(labels):
        raise TestbedError("there are no images to judge the model by")
    if not np.isfinite(logits).all():
        raise TestbedError("some logits are not finite; check the engine's precision")
    shares = softmax(logits)
    best, sure = logits.argmax(1), shares.max(1)
    right = best == labels
    known = np.arange(len(classes))
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, best, labels=known, average="macro", zero_division=0.0
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(shares > 0, shares * np.log(shares), 0.0).sum(1)
    of_right, of_wrong = (float(sure[which].mean()) if which.any() else None for which in (right, ~right))
    return Quality(
        images=len(labels),
        top1=float(right.mean()),
        top5=_top(logits, labels, known, 5),
        precision=float(precision),
        recall=float(recall),
        f1=float(f1),
        per_class={str(classes[k]): float(right[labels == k].mean()) for k in known.tolist() if (labels == k).any()},
        confidence=float(sure.mean()),
        confidence_right=of_right,
        confidence_wrong=of_wrong,
        confidence_gap=None if of_right is None or of_wrong is None else of_right - of_wrong,
        entropy_nats=float(entropy.mean()),
    )


def _top(logits: NDArray[np.float32], labels: NDArray[np.int64], known: NDArray[np.int64], k: int) -> float:
    if len(known) <= k:
        return 1.0
    return float(top_k_accuracy_score(labels, logits, k=k, labels=known))
