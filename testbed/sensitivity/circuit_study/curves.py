"""Faithfulness curves with intervals over images, and the random order that every score is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from testbed.core.arrays import Float64s
from testbed.core.errors import UsageError
from testbed.sensitivity.circuit_study.records import RANDOM, BootstrapInterval, CircuitCurve, FaithfulnessPoint
from testbed.sensitivity.circuits.components import Component, KeptComponents
from testbed.sensitivity.circuits.faithfulness import (
    CircuitTask,
    faithfulness,
    model_distance,
    performance_ratio,
    resampled_counts,
)

_RESAMPLES = 1000


@dataclass(frozen=True)
class CurveSettings:
    """What is measured. sizes: numbers of components, ascending, from none to all; orders: how many random ones."""

    sizes: tuple[int, ...]
    orders: int
    seed: int = 0
    confidence: float = 0.95


def circuit_count(methods: int, settings: CurveSettings) -> int:
    """How many circuits are measured: none and all once, those between for each order."""
    return 2 + (methods + settings.orders) * (len(settings.sizes) - 2)


def measure_curves(
    task: CircuitTask,
    parts: Sequence[Component],
    orders: Mapping[str, Sequence[Component]],
    settings: CurveSettings,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[CircuitCurve, ...]:
    """A curve per order of the parts, and last that of random orders.

    Images are resampled, the same ones for every curve, and with them the random orders. advance: called with the number
    of circuits measured. Raises UsageError where the whole model is not better than the empty circuit.
    """
    metrics = _CircuitMetrics(task, parts, settings, advance)
    given = {by: metrics.of(order) for by, order in orders.items()}
    drawn = np.stack([metrics.of(order) for order in random_orders(parts, settings)])
    return _Resampled(drawn, settings).curves(given)


def random_orders(parts: Sequence[Component], settings: CurveSettings) -> list[list[Component]]:
    """Random orders of the components, drawn by the seed."""
    generators = (np.random.default_rng([settings.seed, number]) for number in range(settings.orders))
    return [[parts[position] for position in rng.permutation(len(parts))] for rng in generators]


class _CircuitMetrics:
    """Metrics of nested circuits; the empty one and the whole model are measured once, before any other."""

    def __init__(
        self, task: CircuitTask, parts: Sequence[Component], settings: CurveSettings, advance: Callable[[int], None]
    ) -> None:
        everything = KeptComponents.all_of(task.model.config)
        self._task, self._settings, self._advance = task, settings, advance
        self._empty, self._full = self._measure(everything.without(parts)), self._measure(everything)
        gain = self._full - self._empty
        resampled = resampled_counts(len(gain), _RESAMPLES, settings.seed) @ gain / len(gain)
        if not np.quantile(resampled, (1 - settings.confidence) / 2) > 0:
            raise UsageError(
                "the whole model is not better at its task than the model without any of these components"
                f" (metric {self._full.mean():.4g} and {self._empty.mean():.4g}); no circuit's faithfulness can be told"
            )

    def of(self, order: Sequence[Component]) -> Float64s:
        """(sizes, n) metric of every circuit and image."""
        between = self._task.nested(order, self._settings.sizes[1:-1])
        return np.stack([self._empty, *map(self._measure, between), self._full])

    def _measure(self, kept: KeptComponents) -> Float64s:
        values = self._task.measure(kept)
        self._advance(1)
        return values


class _Resampled:
    """Areas and curves of resampled images. drawn: (orders, sizes, n) metric of random orders."""

    def __init__(self, drawn: Float64s, settings: CurveSettings) -> None:
        orders, _, images = drawn.shape
        self._settings, self._drawn = settings, drawn
        self._shares = np.array(settings.sizes) / settings.sizes[-1]
        self._times = resampled_counts(images, _RESAMPLES, settings.seed) / images
        self._order_times = resampled_counts(orders, _RESAMPLES, settings.seed + 1) / orders

    def curves(self, given: Mapping[str, Float64s]) -> tuple[CircuitCurve, ...]:
        """A curve of each order, then that of the random ones."""
        resampled = faithfulness(self._of_resamples(self._drawn))  # (orders, resamples, sizes)
        f = faithfulness(self._drawn.mean(-1))  # (orders, sizes)
        shares, chance = self._shares, {}
        for name, area in (("cpr", performance_ratio), ("cmd", model_distance)):
            chance[name] = area(shares, f), (self._order_times.T * area(shares, resampled)).sum(0)
        mean_f = (self._order_times.T[..., None] * resampled).sum(0)
        curves = [self._curve(by, values, chance) for by, values in given.items()]
        points = self._points(self._drawn.mean((0, -1)), f.mean(0), mean_f)
        areas = {name: self._interval(float(value.mean()), replicates) for name, (value, replicates) in chance.items()}
        return (*curves, CircuitCurve(RANDOM, points, areas["cpr"], areas["cmd"]))

    def _curve(self, by: str, values: Float64s, chance: Mapping[str, tuple[Float64s, Float64s]]) -> CircuitCurve:
        f, resampled = faithfulness(values.mean(-1)), faithfulness(self._of_resamples(values))
        cpr, cpr_again = (performance_ratio(self._shares, curve) for curve in (f, resampled))
        cmd, cmd_again = (model_distance(self._shares, curve) for curve in (f, resampled))
        (random_cpr, random_cpr_again), (random_cmd, random_cmd_again) = chance["cpr"], chance["cmd"]
        return CircuitCurve(
            by,
            self._points(values.mean(-1), f, resampled),
            self._interval(float(cpr), cpr_again),
            self._interval(float(cmd), cmd_again),
            self._interval(float(cpr - random_cpr.mean()), cpr_again - random_cpr_again),
            self._interval(float(random_cmd.mean() - cmd), random_cmd_again - cmd_again),
            float((random_cpr >= cpr).mean()),
        )

    def _of_resamples(self, values: Float64s) -> Float64s:
        """(..., sizes, n) -> (..., resamples, sizes): means over each resample's images."""
        means: Float64s = np.swapaxes(values @ self._times.T, -1, -2)
        return means

    def _points(self, metric: Float64s, f: Float64s, resampled: Float64s) -> tuple[FaithfulnessPoint, ...]:
        columns = zip(self._settings.sizes, self._shares, metric, f, resampled.T, strict=True)
        return tuple(
            FaithfulnessPoint(size, float(share), float(mean), *_ends(self._interval(float(value), again)))
            for size, share, mean, value, again in columns
        )

    def _interval(self, value: float, replicates: Float64s) -> BootstrapInterval:
        tail = (1 - self._settings.confidence) / 2
        low, high = np.quantile(replicates, [tail, 1 - tail])
        return BootstrapInterval(value, float(low), float(high))


def _ends(interval: BootstrapInterval) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high
