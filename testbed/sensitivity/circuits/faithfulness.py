"""Faithfulness: how much of what a model does a circuit does, over the circuit's size.

    f(C) = (m(C) - m(empty)) / (m(full) - m(empty))

of a task metric m, the mean over images, with everything outside the circuit ablated; 0 for the empty circuit, 1 for the
whole model. Of the nested circuits that an order of the components gives (the first k of them), two areas over the share of
the components, from 0 to 1, by the trapezoidal rule (Mueller et al., "MIB: A Mechanistic Interpretability Benchmark", 2025):

    CPR   circuit performance ratio: under f, larger is better
    CMD   circuit-model distance: under |1 - f|, 0 is best
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from testbed.core.arrays import Float64s, Int64s
from testbed.core.errors import UsageError
from testbed.core.words.nearest import unknown
from testbed.models.vit import ViT
from testbed.sensitivity.circuits.ablation import Replacements, logits_of
from testbed.sensitivity.circuits.analysis_set import AnalysisSet, Corruption
from testbed.sensitivity.circuits.components import Component, KeptComponents

TaskMetric = Literal["logit_difference", "log_probability"]
TASK_METRICS: tuple[TaskMetric, ...] = get_args(TaskMetric)
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class CircuitTask:
    """What circuits are measured by. against: (n,) int64, the class whose logit the true class's is compared with."""

    model: ViT
    images: AnalysisSet
    metric: TaskMetric
    against: Tensor
    replaced: Replacements

    @classmethod
    def of(
        cls,
        model: ViT,
        images: AnalysisSet,
        metric: TaskMetric,
        replaced: Replacements,
        *,
        corrupt: Corruption = "other_class",
        seed: int = 0,
    ) -> CircuitTask:
        """The task of these images. The logit difference is to the corrupt image's class under ``other_class``, to the
        whole model's best other class under any other corruption, whatever the circuit. Raises UsageError for an unknown
        metric."""
        if metric not in TASK_METRICS:
            raise UsageError(unknown("metric", metric, TASK_METRICS))
        model.eval()
        if corrupt == "other_class":
            return cls(model, images, metric, images.labels[images.partners(seed)], replaced)
        logits = logits_of(model, images)
        own = torch.nn.functional.one_hot(images.labels, logits.shape[1]).bool()
        return cls(model, images, metric, logits.masked_fill(own, -torch.inf).argmax(1), replaced)

    def measure(self, kept: KeptComponents) -> Float64s:
        """(n,) the metric of each image with nothing but ``kept``; higher is better."""
        logits = logits_of(self.model, self.images, kept, self.replaced).double()
        if self.metric == "log_probability":
            logits = logits.log_softmax(-1)
        right = logits.gather(1, self.images.labels[:, None])[:, 0]
        if self.metric == "log_probability":
            return _array(right)
        return _array(right - logits.gather(1, self.against[:, None])[:, 0])

    def nested(self, order: Sequence[Component], sizes: Sequence[int]) -> list[KeptComponents]:
        """The circuits of the first so many components of ``order``."""
        everything = KeptComponents.all_of(self.model.config)
        return [everything.without(order[size:]) for size in sizes]


def circuit_sizes(count: int, shares: Sequence[float] = SHARES) -> tuple[int, ...]:
    """Numbers of components, ascending, from none to all ``count``. Raises UsageError for shares beyond 0 and 1."""
    if strange := [share for share in shares if not 0 <= share <= 1]:
        raise UsageError(f"a circuit's size is a share of the components, from 0 to 1, not {strange[0]:g}")
    return tuple(sorted({0, count, *(max(1, round(share * count)) for share in shares if share > 0)}))


def faithfulness(means: Float64s) -> Float64s:
    """(..., sizes) metric of circuits, the empty one first and the whole model last -> f, of the same shape."""
    empty, full = means[..., :1], means[..., -1:]
    ratio: Float64s = (means - empty) / (full - empty)
    return ratio


def performance_ratio(shares: Float64s, f: Float64s) -> Float64s:
    """(...,) CPR. shares: (sizes,) from 0 to 1; f: (..., sizes)."""
    return np.asarray(np.trapezoid(f, shares, axis=-1))


def model_distance(shares: Float64s, f: Float64s) -> Float64s:
    """(...,) CMD. shares: (sizes,) from 0 to 1; f: (..., sizes)."""
    return np.asarray(np.trapezoid(np.abs(1 - f), shares, axis=-1))


def resampled_counts(images: int, resamples: int, seed: int) -> Int64s:
    """(resamples, images): how often each image is drawn in each resample of as many images."""
    draws: Int64s = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)
    return draws


def _array(values: Tensor) -> Float64s:
    array: Float64s = values.numpy()
    return array
