"""Separation fuzziness: how far the classes of a data set are still mixed in a layer's features.

D = Tr(Sw pinv(Sb)) of the within-class and between-class covariance (He & Su, "A law of data separation in deep learning",
PNAS 2023). With m the mean of all n samples, m_k that of class k, n_k its samples and K classes:

    Sw = (1/K) sum_k (1/n_k) sum_{i in k} (x_i - m_k)(x_i - m_k)^T        Sb = (1/K) sum_k (m_k - m)(m_k - m)^T

Classes weigh equally; with ``weighted`` each weighs n_k / n. Sb has rank K - 1 at most and is never formed: with M the
(d, K) matrix of columns (m_k - m) / sqrt(K) and its thin factor M = U S V^T,

    D = sum_i s_i^-2 u_i^T Sw u_i,

which needs the features' K projections onto U only. Singular values below ``sqrt(rcond)`` of the largest are dropped: that
is pinv's cut-off ``rcond`` on the eigenvalues of Sb.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from testbed.core.arrays import Float64s
from testbed.core.errors import UsageError

RCOND = 1e-10
Batches = Callable[[], Iterable[tuple[ArrayLike, ArrayLike]]]
"""A fresh pass over (features (b, ...), labels (b,))."""


def separation_fuzziness(
    features: ArrayLike, labels: ArrayLike, *, weighted: bool = False, rcond: float = RCOND
) -> float:
    """D of features (n, ...), flattened, in float64; labels (n,) integers.

    0 where no class varies; infinite where classes vary and their means do not differ. Raises UsageError for fewer than
    two classes, NaN or infinite features, or labels that do not fit.
    """
    x, y = np.asarray(features), np.asarray(labels)
    if len(x) != len(y):
        raise UsageError(f"{len(x)} feature vectors have {len(y)} labels")
    return streamed_fuzziness(lambda: [(x, y)], weighted=weighted, rcond=rcond)


def streamed_fuzziness(batches: Batches, *, weighted: bool = False, rcond: float = RCOND) -> float:
    """`separation_fuzziness` of features that never are in memory together: two passes, in any order each."""
    moments = ClassMoments()
    for x, y in batches():
        moments.add(x, y)
    frame = moments.frame(weighted=weighted, rcond=rcond)
    spread = WithinSpread(frame)
    for x, y in batches():
        spread.add(x, y)
    return spread.fuzziness()


def _checked(features: ArrayLike, labels: ArrayLike) -> tuple[Float64s, NDArray[np.int64]]:
    x, y = np.asarray(features, np.float64), np.asarray(labels)
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise UsageError(f"labels must be whole numbers, one per sample, not {y.dtype} of shape {y.shape}")
    if len(x) != len(y):
        raise UsageError(f"{len(x)} feature vectors have {len(y)} labels")
    x = x.reshape(len(x), math.prod(x.shape[1:]))
    if not np.isfinite(x).all():
        raise UsageError("the features hold NaN or infinity; fuzziness is not defined for them")
    return x, y.astype(np.int64)


class ClassMoments:
    """First pass: sums and counts per class. Memory: classes x features."""

    def __init__(self) -> None:
        self._sums: dict[int, Float64s] = {}
        self._counts: dict[int, int] = {}

    def add(self, features: ArrayLike, labels: ArrayLike) -> None:
        x, y = _checked(features, labels)
        for label in np.unique(y).tolist():
            of_class = x[y == label]
            self._sums[label] = self._sums.get(label, np.zeros(x.shape[1])) + of_class.sum(axis=0)
            self._counts[label] = self._counts.get(label, 0) + len(of_class)

    def frame(self, *, weighted: bool, rcond: float) -> DiscriminantFrame:
        """The space between the class means. Raises UsageError for fewer than two classes."""
        if len(self._counts) < 2:
            classes_seen = f"only class {next(iter(self._counts))}" if self._counts else "no sample at all"
            raise UsageError(
                f"fuzziness compares classes, and there is {classes_seen}; use data with two classes or more"
            )
        classes = np.array(sorted(self._counts), np.int64)
        counts = np.array([self._counts[label] for label in classes.tolist()], np.float64)
        means = np.stack([self._sums[label] for label in classes.tolist()]) / counts[:, None]
        share = counts / counts.sum() if weighted else np.full(len(classes), 1 / len(classes))
        centred = (means - (counts / counts.sum()) @ means) * np.sqrt(share)[:, None]  # (K, d): M transposed
        _, s, axes = np.linalg.svd(centred, full_matrices=False)
        # what rounding leaves of equal means is no distance between them
        noise = np.finfo(np.float64).eps * max(centred.shape) * float(np.abs(means).max(initial=0.0))
        kept = (s > np.sqrt(rcond) * s[0]) & (s > noise)
        return DiscriminantFrame(classes, means, share / counts, axes[kept], s[kept])


@dataclass(frozen=True)
class DiscriminantFrame:
    """Class means and the axes between them. means: (K, d); weight: (K,) of one sample of each class in Sw; axes: (r,
    d) rows u_i; scales: (r,) s_i."""

    classes: NDArray[np.int64]
    means: Float64s
    weight: Float64s
    axes: Float64s
    scales: Float64s


class WithinSpread:
    """Second pass: Sw along the axes between the means, and its trace."""

    def __init__(self, frame: DiscriminantFrame) -> None:
        self._frame = frame
        self._along = np.zeros(len(frame.scales))
        self._trace = 0.0

    def add(self, features: ArrayLike, labels: ArrayLike) -> None:
        x, y = _checked(features, labels)
        which = np.searchsorted(self._frame.classes, y)
        away = x - self._frame.means[which]
        weight = self._frame.weight[which]
        self._along += weight @ (away @ self._frame.axes.T) ** 2
        self._trace += float(weight @ (away**2).sum(axis=1))

    def fuzziness(self) -> float:
        if not len(self._along):
            return float("inf") if self._trace > 0 else 0.0
        return float((self._along / self._frame.scales**2).sum())
