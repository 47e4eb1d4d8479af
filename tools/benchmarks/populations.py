"""Populations of faults whose rates are known, for campaigns that are played out on them: how often their intervals hold, how
far their estimates are off, and how many faults a margin costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from testbed.analysis.adaptive.simulation import ClusteredTruth, SimulatedTruth, Truth
from testbed.analysis.stratified import SamplingFrame

Strata = tuple[SamplingFrame, NDArray[np.float64]]


def rare() -> Strata:
    """Two blocks of 20 strata: most never fail, some once in 1,000 to 10,000 faults, one always."""
    population = [200_000] * 8 + [50_000] * 4 + [5_000] * 6 + [1_500, 500]
    rates = np.array([0] * 8 + [1e-4, 3e-4, 1e-3, 1e-3] + [0, 0, 1e-3, 0.02, 0.2, 0.5] + [1, 0.9])
    alike = ["low"] * 12 + ["high"] * 6 + ["top"] * 2
    second = rates * np.r_[np.ones(12), np.full(6, 0.3), 1, 1]
    return SamplingFrame.of(population * 2, np.repeat([0, 1], 20), alike * 2), np.r_[rates, second]


def blocks(seed: int = 0) -> Strata:
    """Four blocks of 14 sites with five classes of bits each, as of a transformer: top exponent bits fail half of the
    time, most bits hardly ever; sites and blocks differ."""
    rng = np.random.default_rng(seed)
    bits = {"sign": (1, 0.01), "top": (1, 0.5), "exponent": (7, 0.03), "high": (11, 1e-4), "low": (12, 0)}
    rows = [
        (block, name, width * 16 * elements, min(1, rate * rng.lognormal(0, 1)))
        for block in range(4)
        for elements in rng.choice([38_000, 114_000, 150_000], 14)
        for name, (width, rate) in bits.items()
    ]
    block, name, population, rates = zip(*rows, strict=True)
    return SamplingFrame.of(population, block, name), np.array(rates)


def equal(rate: float, strata: int = 20) -> Strata:
    """Strata that differ in nothing, though nobody knows: chance alone must not steer."""
    return SamplingFrame.of(np.full(strata, 100_000), np.zeros(strata)), np.full(strata, rate)


def heavy() -> Strata:
    """Five sixths of the population fail once in 100 faults, some of the others often."""
    frame = SamplingFrame.of([1_000_000] + [10_000] * 20, np.zeros(21), np.r_[0, np.repeat([1, 2], 10)])
    return frame, np.r_[0.01, np.zeros(10), np.full(10, 0.3)]


def small() -> Strata:
    """Strata of 30 to 900 faults, of which many are drawn completely."""
    sizes, rates = [30, 60, 120, 400, 900], [0.5, 0, 0.1, 0.02, 0.3]
    return SamplingFrame.of(sizes * 6, np.repeat([0, 1], 15), list(range(5)) * 6), np.array(rates * 6)


def seldom() -> Strata:
    """Nothing fails but one fault in 10,000 of a stratum that is half of the population."""
    frame = SamplingFrame.of([10**9] * 2 + [10**8] * 10, np.zeros(12))
    return frame, np.r_[1e-4, np.zeros(11)]


def guided(strata: Strata, proxy: str) -> tuple[Strata, NDArray[np.float64]]:
    """The strata as a proxy of their rates makes them alike, and its guesses of their standard deviations. proxy: "perfect",
    "good", or "wrong", which takes the highest rate for the lowest."""
    frame, rates = strata
    noise = 0.1 * np.random.default_rng(1).random(len(rates))
    score = {"perfect": rates, "good": rates + noise, "wrong": noise - rates}[proxy]
    rank = score.argsort().argsort() / len(rates)
    deviation = np.sqrt(rates * (1 - rates)) + 1e-2 if proxy == "perfect" else rank
    return (SamplingFrame.of(frame.population, frame.domain, (rank * 5).astype(int)), rates), deviation


@dataclass(frozen=True)
class Known:
    """A population to play campaigns on. margin: that they are to reach; floor: the margin beside a relative one. deviation:
    guesses that steer the first round."""

    truth: Truth
    margin: float
    floor: float
    deviation: NDArray[np.float64] | None = None


POPULATIONS: dict[str, tuple[Strata, float]] = {
    "rare": (rare(), 0.005),
    "blocks": (blocks(), 0.01),
    "equal, 2 %": (equal(0.02), 0.01),
    "equal, 10 %": (equal(0.1), 0.02),
    "one stratum": (equal(0.01, 1), 0.01),
    "heavy": (heavy(), 0.01),
    "small": (small(), 0.03),
}


def all_known() -> dict[str, Known]:
    """Those above and the hard ones: rare events, proxies, images that fail together."""
    known = {
        name: Known(SimulatedTruth.of(*strata), margin, margin / 10) for name, (strata, margin) in POPULATIONS.items()
    }
    known["events of 1e-4"] = Known(SimulatedTruth.of(*seldom()), 1e-4, 5e-6)
    for proxy in ("perfect", "wrong"):
        strata, deviation = guided(blocks(), proxy)
        known[f"{proxy} proxy"] = Known(SimulatedTruth.of(*strata), 0.01, 0.001, deviation)
    frame, rates = blocks()
    known["clustered images"] = Known(ClusteredTruth.of(frame, rates, images=64, correlation=0.6), 0.01, 0.001)
    return known
