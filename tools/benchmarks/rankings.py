"""Parts whose true rates are known, scores with a known rank correlation to them, and campaigns that measure the rates: how
often intervals of the correlation hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import spearmanr

from testbed.core.site import SiteTable
from testbed.sensitivity.rank.effective import effective_counts
from testbed.sensitivity.rank.measured import MeasuredRows
from testbed.sensitivity.rank.true_ranks import TrueRanks, normal_scores
from testbed.sensitivity.rank.validate import spearmans

Floats = NDArray[np.float64]
FAULTS = 400  # of each part
CLOSE = 0.015  # a true correlation is at most as far from the wanted one


class Covered(NamedTuple):
    """Over campaigns: share whose interval holds the true correlation, the mean estimate, the mean correlation with the
    measured rates, and the mean width."""

    share: float
    estimate: float
    measured: float
    width: float


def _from_normal(shape: Callable[[Floats], Floats]) -> Callable[[int], Floats]:
    return lambda parts: shape(normal_scores(np.arange(parts)))


def _levels(parts: int) -> Floats:
    return np.where(np.arange(parts) < parts // 2, 1.0, 5.0) * (1 + 0.05 * np.arange(parts) / parts)


def _dominated(parts: int) -> Floats:
    return np.append(np.exp(0.3 * normal_scores(np.arange(parts - 1))), parts)


SHAPES: dict[str, Callable[[int], Floats]] = {
    "lognormal": _from_normal(np.exp),
    "close": _from_normal(lambda z: np.exp(0.4 * z)),
    "wide": _from_normal(lambda z: np.exp(1.8 * z)),
    "linear": _from_normal(lambda z: 0.1 + 1.9 * ndtr(z)),
    "exponential": _from_normal(lambda z: -np.log(ndtr(-z))),
    "two levels": _levels,  # alike within each to 5 %: their order is hardly measurable
    "dominated": _dominated,  # one part has half of all events
}
"""True rates of parts, in ascending order, up to a factor."""
DESIGNS = ("counts", "strata", "images")
"""How rates are measured: plain counts; strata of which one holds an eighth of the faults and most events; images that are hard
for some parts."""


def scored(rates: Floats, correlation: float, rng: np.random.Generator) -> tuple[Floats, float]:
    """(scores, their Spearman correlation with the rates), near the wanted one, with a Gaussian copula otherwise."""
    z, latent = normal_scores(rates), 2 * np.sin(np.pi * correlation / 6)
    while True:
        scores = latent * z + np.sqrt(1 - latent**2) * rng.standard_normal(len(z))
        true = float(spearmanr(scores, rates).statistic)
        if abs(true - correlation) < CLOSE:
            return scores, true


def measured(
    rates: Floats, design: str, rng: np.random.Generator, images: int = 50
) -> tuple[NDArray[np.bool_], MeasuredRows]:
    """((parts, rows) which rows are of which part, the rows of a campaign)."""
    parts = len(rates)
    part = np.repeat(np.arange(parts), FAULTS)
    image = np.tile(np.arange(FAULTS) % images, parts)
    top = np.tile(np.arange(FAULTS) % 2, parts)
    rate, weight, stratum = rates[part], np.ones(len(part)), part
    if design == "strata":
        rate = np.where(top == 1, 8 * 0.9 * rate, 0.1 * rate * 8 / 7)
        weight, stratum = np.where(top == 1, 1.0, 7.0), 2 * part + top
    elif design == "images":
        rate = rate * rng.gamma(0.2, 5.0, (parts, images))[part, image]
    none = np.zeros(len(part), np.int64)
    events = rng.random(len(part)) < rate
    table = SiteTable("model", "", "gated_replace", ())
    rows = MeasuredRows(none.astype(object), none, weight, stratum, stratum, image, events, table)
    return np.arange(parts)[:, None] == part, rows


def intervals(
    shape: str,
    correlation: float,
    campaigns: int,
    design: str = "counts",
    parts: int = 36,
    events: int = 200,
    seed: int = 0,
) -> Iterator[tuple[float, Floats, float]]:
    """(true correlation, (low, estimate, high), correlation with the measured rates) of each campaign. events: of plain
    counts, over all parts together and on average."""
    rng = np.random.default_rng(seed)
    rates = SHAPES[shape](parts)
    rates *= events / FAULTS / rates.sum()
    for _ in range(campaigns):
        scores, true = scored(rates, correlation, rng)
        counts = effective_counts(*measured(rates, design, rng))
        draws = spearmans(scores, TrueRanks(*counts).draws(scores, rng))
        rough = float(spearmanr(scores, counts.events / counts.faults).statistic)
        yield true, np.quantile(draws, [0.025, 0.5, 0.975]), rough


def coverage(
    shape: str,
    correlation: float,
    campaigns: int,
    design: str = "counts",
    parts: int = 36,
    events: int = 200,
    seed: int = 0,
) -> Covered:
    """Intervals of 95 %."""
    played = list(intervals(shape, correlation, campaigns, design, parts, events, seed))
    limits = np.array([limits for _, limits, _ in played])
    true, rough = np.array([[true, rough] for true, _, rough in played]).T
    return Covered(
        float(((limits[:, 0] <= true) & (true <= limits[:, 2])).mean()),
        float(limits[:, 1].mean()),
        float(rough.mean()),
        float((limits[:, 2] - limits[:, 0]).mean()),
    )
